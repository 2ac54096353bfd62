"""Local training of many clients as one batched computation.

Every parameter has a leading client axis; clients of unequal size are padded and masked. What
a client gets is what `client.training` gives it alone, to rounding. The gradient is written out
for the multilayer perceptron, over buffers that stay from one round to the next.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch.nn import functional as F
from torch.optim.adam import adam

from client.dataset import Dataset
from client.draws import Draws
from client.mechanism import Arrays
from client.training import TrainingConfig


@dataclass(frozen=True)
class _Batch:
    """One step of those clients that still train: a of them, of up to b utterances each.

    Attributes
    ----------
    features : Tensor, shape (a, b, d)
    labels : Tensor of int64, shape (a, b)
    weights : Tensor, shape (a, b)
        One over the size of the client's batch, or 0 for padding.
    """

    features: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


@torch.inference_mode()
def train_stack(
    algorithm: str,
    start: Arrays,
    data: Dataset,
    clients: Sequence[int],
    config: TrainingConfig,
    draws: Draws,
    clipping_norm: float | None,
    into: Arrays,
) -> list[float]:
    """Train k clients from the same weights, as `fedavg_update` or `fedsgd_gradient` do one.

    Parameters
    ----------
    algorithm : str
        ``fedavg`` or ``fedsgd``.
    start : Arrays
        Global weights of the round, of a `client.model.Recogniser`.
    draws : Draws
        Of these clients.
    clipping_norm : float or None
        Bound on the L2 norm of each batch's gradient.
    into : Arrays
        Arrays of shape (k, ...) that take the updates or gradients.

    Returns
    -------
    list of float
        Each client's mean cross entropy over its steps.
    """
    device = data.features.device
    # Those who take most steps come first, so that whoever still trains is a slice.
    order = torch.argsort(data.sizes(clients), descending=True, stable=True)
    sorted_clients = [clients[place] for place in order.tolist()]
    draws = Draws(draws.keys[order].to(device), draws.dropout)
    layers = sorted({n.rpartition(".")[0] for n in start}, key=lambda n: int(n.split(".")[1]))
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    weights = [torch.from_numpy(np.array(start[name])).to(device) for name in names]
    losses, steps = data.features.new_zeros(2, len(clients))
    with _buffers.lent(weights, len(clients)) as (params, gradients, means, squares):
        for stack, value in zip(params, weights, strict=True):
            stack.copy_(value)
        batches = _batches(data, sorted_clients, config, draws)
        for step, batch in enumerate(batches if algorithm == "fedavg" else islice(batches, 1)):
            on = slice(len(batch.labels))
            active, slopes = [p[on] for p in params], [g[on] for g in gradients]
            losses[on] += _gradients(active, slopes, batch, draws, step)
            steps[on] += 1
            if clipping_norm is not None:
                _clip(slopes, clipping_norm)
            if algorithm == "fedavg":
                moments = [m[on] for m in means], [s[on] for s in squares]
                _adam(active, slopes, *moments, step, config)
        for name, value, moved, slope in zip(names, weights, params, gradients, strict=True):
            target = torch.from_numpy(into[name])
            for place, row in enumerate(order.tolist()):
                if algorithm == "fedsgd":
                    target[row] = slope[place]
                elif device.type == "cpu":
                    torch.sub(moved[place], value, out=target[row])
                else:
                    target[row] = moved[place] - value
    found = torch.empty_like(losses)
    found[order.to(device)] = losses / steps
    return found.tolist()


def _batches(
    data: Dataset, clients: Sequence[int], config: TrainingConfig, draws: Draws
) -> Iterator[_Batch]:
    """Yield the batches of clients that are sorted by size, largest first."""
    device, size = data.features.device, config.batch_size
    sizes, first = data.sizes(clients), data.bounds[torch.tensor(clients)]
    orders = torch.stack([draws.orders(epoch, sizes.to(device)) for epoch in range(config.epochs)])
    an_epoch = -(-sizes // size)  # steps
    for step in range(config.epochs * int(an_epoch[0])):
        epoch, place = step // an_epoch, step % an_epoch * size
        active = int((epoch < config.epochs).sum())
        epoch, place, numbers = epoch[:active, None], place[:active, None], torch.arange(active)
        counts = (sizes[:active, None] - place).clamp(max=size)
        within = torch.arange(int(counts.max()))
        valid = within < counts
        places = torch.where(valid, place + within, 0)
        chosen = [part.to(device) for part in (epoch, numbers[:, None], places)]
        rows = (orders[tuple(chosen)] + first[:active, None].to(device)).ravel()
        yield _Batch(
            data.features.index_select(0, rows).view(active, len(within), -1),
            data.labels[rows].view(active, -1),
            valid.to(data.features) / counts.to(device),
        )


def _gradients(
    params: Sequence[torch.Tensor],
    into: Sequence[torch.Tensor],
    batch: _Batch,
    draws: Draws,
    step: int,
) -> torch.Tensor:
    """Write the gradients of a batch's mean cross entropy, and return that, shape (a,)."""
    layers = list(zip(params[::2], params[1::2], strict=True))
    inputs, masks = [batch.features], []
    for number, (weight, bias) in enumerate(layers):
        outputs = torch.baddbmm(bias[:, None], inputs[-1], weight.mT)
        if number < len(layers) - 1:
            outputs.relu_()
            if draws.dropout > 0:
                masks.append(draws.head(len(bias)).masks(number, step, outputs))
                outputs *= masks[-1]
        inputs.append(outputs)
    scores = inputs.pop().log_softmax(dim=2)
    truth = F.one_hot(batch.labels, scores.shape[2])
    slope = (scores.exp() - truth) * batch.weights[..., None]
    for number in reversed(range(len(layers))):
        torch.bmm(slope.mT, inputs[number], out=into[2 * number])
        torch.sum(slope, dim=1, out=into[2 * number + 1])
        if number:
            slope = torch.bmm(slope, params[2 * number])
            slope *= inputs[number] > 0
            if masks:
                slope *= masks[number - 1]
    return -(scores * truth).sum(2).mul_(batch.weights).sum(1)


def _clip(gradients: Sequence[torch.Tensor], norm: float) -> None:
    """Scale each client's gradient down, as `torch.nn.utils.clip_grad_norm_` does."""
    parts = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
    norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    factors = (norm / (norms + 1e-6)).clamp_(max=1.0)
    for g in gradients:
        g *= factors.view(-1, *[1] * (g.ndim - 1))


def _adam(
    params: list[torch.Tensor],
    gradients: list[torch.Tensor],
    means: list[torch.Tensor],
    squares: list[torch.Tensor],
    step: int,
    config: TrainingConfig,
) -> None:
    if step == 0:
        for moment in (*means, *squares):
            moment.zero_()
    adam(
        params,
        gradients,
        means,
        squares,
        [],
        list(torch.full((len(params),), float(step), device=params[0].device)),
        fused=True,
        amsgrad=False,
        beta1=config.beta1,
        beta2=config.beta2,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        eps=config.adam_epsilon,
        maximize=False,
    )


class _Buffers:
    """Parameters, gradients and Adam's moments of stacks that are not in use.

    To allocate them anew for each chunk would cost as much as to compute with them.
    """

    def __init__(self) -> None:
        self._shapes: object = None
        self._free: list[list[list[torch.Tensor]]] = []

    @contextmanager
    def lent(self, like: Sequence[torch.Tensor], count: int) -> Iterator[list[list[torch.Tensor]]]:
        """Lend four stacks of `count` tensors like each; what they hold is not defined."""
        shapes = [(value.shape, value.dtype, value.device) for value in like]
        if shapes != self._shapes:  # of another model: those will not be needed again
            self._shapes, self._free = shapes, []
        free = self._free
        stacks = free.pop() if free else []
        if not stacks or len(stacks[0][0]) < count:
            stacks = [[_allocate(count, value) for value in like] for _ in range(4)]
        yield [[stack[:count] for stack in part] for part in stacks]
        free.append(stacks)


def _allocate(count: int, like: torch.Tensor) -> torch.Tensor:
    # NumPy asks the system for huge pages, PyTorch does not.
    array = np.empty((count, *like.shape), like.cpu().numpy().dtype)
    return torch.from_numpy(array).to(like.device)


_buffers = _Buffers()
