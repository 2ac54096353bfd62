"""Local training of many clients as one batched computation.

Every parameter has a leading client axis; clients of unequal size are padded and masked. What
a client gets is what `client.training` gives it alone, to rounding. The gradient is written out
for the multilayer perceptron, over buffers that stay from one chunk of clients to the next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch.nn import functional as F
from torch.optim.adam import adam

from client.buffers import borrow
from client.dataset import Dataset
from client.draws import Draws
from client.mechanism import Arrays
from client.training import TrainingConfig

Tensors = list[torch.Tensor]


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
    layers = sorted({n.rpartition(".")[0] for n in start}, key=lambda n: int(n.split(".")[1]))
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    weights = [torch.from_numpy(np.array(start[name])).to(device) for name in names]
    hosts = [torch.from_numpy(into[name]) for name in names]
    results = hosts if device.type == "cpu" else [torch.empty_like(h, device=device) for h in hosts]
    draws = Draws(draws.keys.to(device), draws.dropout)
    epochs = config.epochs if algorithm == "fedavg" else 1
    batches = _batches(data, clients, config.batch_size, epochs, len(weights[-1]), draws)
    if algorithm == "fedavg":
        losses = _adam_steps(weights, results, batches, draws, clipping_norm, config)
        for result, weight in zip(results, weights, strict=True):
            result -= weight
    else:
        losses = _gradients(weights, results, next(batches), draws, 0)
        if clipping_norm is not None:
            _clip(results, clipping_norm)
    for host, result in zip(hosts, results, strict=True):
        if host is not result:
            host.copy_(result)
    return losses.tolist()


@dataclass(frozen=True)
class _Batch:
    """One step of those clients that still train: a of k, of up to b utterances each.

    Attributes
    ----------
    on : Tensor of int64, shape (a,), or slice
        Who they are.
    features : Tensor, shape (a, b, d)
    truth : Tensor, shape (a, b, classes)
        One-hot labels, times the weights.
    weights : Tensor, shape (a, b, 1)
        One over the size of the client's batch, or 0 for padding.
    """

    on: torch.Tensor | slice
    features: torch.Tensor
    truth: torch.Tensor
    weights: torch.Tensor


def _batches(
    data: Dataset, clients: Sequence[int], size: int, epochs: int, classes: int, draws: Draws
) -> Iterator[_Batch]:
    """Yield the clients' batches, step by step."""
    device, sizes = data.features.device, data.sizes(clients)
    an_epoch = -(-sizes // size) * size  # utterances and padding
    places = torch.arange(epochs * int(an_epoch.max()))
    epoch, place = places // an_epoch[:, None], places % an_epoch[:, None]
    valid = (epoch < epochs) & (place < sizes[:, None])
    orders = torch.stack([draws.orders(e, sizes.to(device)) for e in range(epochs)])
    at = (epoch.clamp_(max=epochs - 1), torch.arange(len(clients))[:, None], place * valid)
    first = data.bounds[torch.tensor(clients)][:, None]
    rows = torch.where(valid.to(device), orders[tuple(i.to(device) for i in at)], 0)
    rows += first.to(device)
    counts = valid.view(len(clients), -1, size).sum(2)
    shares = counts.repeat_interleave(size, 1).clamp_(min=1)
    weights = (valid.to(data.features.dtype) / shares).to(device)[..., None]
    truth = F.one_hot(data.labels[rows], classes) * weights
    for step, count in enumerate(counts.T):
        active, width = count.nonzero()[:, 0], int(count.max())
        on = slice(None) if len(active) == len(clients) else active.to(device)
        here = slice(step * size, step * size + width)
        own = rows[on, here]
        features = data.features.index_select(0, own.reshape(-1)).view(*own.shape, -1)
        yield _Batch(on, features, truth[on, here], weights[on, here])


def _adam_steps(
    weights: Tensors,
    params: Tensors,
    batches: Iterator[_Batch],
    draws: Draws,
    clipping_norm: float | None,
    config: TrainingConfig,
) -> torch.Tensor:
    """Take all steps from the weights on in `params`, and return mean losses, shape (k,)."""
    losses = params[0].new_zeros(len(params[0]))
    steps = torch.zeros_like(losses)
    gradients, means, squares = islice(_stacks(weights, len(params[0])), 3)
    for param, weight in zip(params, weights, strict=True):
        param.copy_(weight)
    for moment in (*means, *squares):
        moment.zero_()
    for step, batch in enumerate(batches):
        on, everyone = batch.on, isinstance(batch.on, slice)
        stacks = params, means, squares
        moved = [part if everyone else [t[on] for t in part] for part in stacks]
        slopes = [g[: len(batch.truth)] for g in gradients]
        own = Draws(draws.keys[on], draws.dropout)
        # In the first step all have the same weights.
        losses[on] += _gradients(moved[0] if step else weights, slopes, batch, own, step)
        steps[on] += 1
        if clipping_norm is not None:
            _clip(slopes, clipping_norm)
        adam(
            moved[0],
            slopes,
            moved[1],
            moved[2],
            [],
            list(steps.new_full((len(slopes),), step)),
            fused=True,
            amsgrad=False,
            beta1=config.beta1,
            beta2=config.beta2,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            eps=config.adam_epsilon,
            maximize=False,
        )
        if not everyone:
            for part, values in zip(stacks, moved, strict=True):
                for tensor, value in zip(part, values, strict=True):
                    tensor[on] = value
    return losses / steps


def _gradients(
    params: Tensors, into: Tensors, batch: _Batch, draws: Draws, step: int
) -> torch.Tensor:
    """Write the gradients of a batch's mean cross entropy, and return that, shape (a,).

    Parameters
    ----------
    params : list of Tensor
        Weights (a, m, n) and biases (a, m) in turn; or (m, n) and (m,), the same for all.
    """
    layers = list(zip(params[::2], params[1::2], strict=True))
    inputs, masks = [batch.features], list[torch.Tensor]()
    if draws.dropout > 0:
        masks = draws.masks(step, batch.features.shape[1], [b.shape[-1] for _, b in layers[:-1]])
    for number, (weight, bias) in enumerate(layers):
        if weight.ndim == 2:
            outputs = F.linear(inputs[-1], weight, bias)
        else:
            outputs = torch.baddbmm(bias[:, None], inputs[-1], weight.mT)
        if number < len(layers) - 1:
            outputs.relu_()
            if masks:
                outputs *= masks[number]
        inputs.append(outputs)
    scores = inputs.pop().log_softmax(dim=2)
    losses: torch.Tensor = -(scores * batch.truth).sum((1, 2))
    slope = scores.exp_().mul_(batch.weights).sub_(batch.truth)
    for number in reversed(range(len(layers))):
        torch.bmm(slope.mT, inputs[number], out=into[2 * number])
        torch.sum(slope, dim=1, out=into[2 * number + 1])
        if number:
            slope = slope @ params[2 * number]
            slope *= inputs[number] > 0
            if masks:
                slope *= masks[number - 1]
    return losses


def _clip(gradients: Tensors, norm: float) -> None:
    """Scale each client's gradient down, as `torch.nn.utils.clip_grad_norm_` does."""
    parts = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
    norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    factors = (norm / (norms + 1e-6)).clamp_(max=1.0)
    for g in gradients:
        g *= factors.view(-1, *[1] * (g.ndim - 1))


def _stacks(like: Tensors, count: int) -> Iterator[Tensors]:
    """Yield stacks of `count` tensors like each; what they hold is not defined."""
    sizes = [count * value.numel() for value in like]
    shapes = [(count, *value.shape) for value in like]
    while True:
        flat = like[0].new_empty(0 if like[0].is_cpu else sum(sizes))
        if like[0].is_cpu:
            flat = torch.from_numpy(borrow((sum(sizes),), flat.numpy().dtype))
        parts = torch.split(flat, sizes)
        yield [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
