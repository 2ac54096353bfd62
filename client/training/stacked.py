"""Local training of many clients as one batched computation, for GPUs.

Every parameter has a leading client axis. Clients of unequal size are padded and masked. Up to
rounding, a client gets the update that `client.training.local` computes for it alone. The gradient
is written out for the multilayer perceptron, over buffers that all chunks of clients use again;
`client.training.vmapped` derives the gradient of any other network. No code here runs in PyTorch's
inference mode: there `torch.func` of PyTorch 2.11 returns zero gradients without a warning.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.optim.adam import adam

from fedser.client.training.batches import Batches
from fedser.client.training.dataset import trim
from fedser.client.training.draws import Draws
from fedser.client.training.task import LocalTask
from fedser.common.buffers import borrow, split

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """One step of the a clients (of k) that still train, with at most b utterances each.

    Attributes
    ----------
    clients : Tensor of int64, shape (a,), or slice
        The clients among the k.
    features : Tensor, shape (a, b, ...)
    targets : Tensor, shape (a, b, classes)
        One-hot labels, times `utterance_weights`.
    utterance_weights : Tensor, shape (a, b, 1)
        One over the size of the client's batch; 0 for padding.
    """

    clients: torch.Tensor | slice
    features: torch.Tensor
    targets: torch.Tensor
    utterance_weights: torch.Tensor


GradientFunction = Callable[[Tensors, Tensors, Batch, Draws, int], torch.Tensor]
"""Computes gradients and losses of a network, with the arguments of `perceptron_gradients`."""


class StackedTrainer:
    """Train clients of a task as one PyTorch computation, any chunk of them at a time.

    Parameters
    ----------
    task : LocalTask
        For ``fedavg`` or ``fedsgd``, with its `start` in the order of the network.
    updates : ndarray, shape (k * P,)
        Receives the updates or gradients, laid out for `common.buffers.split`.
    """

    @torch.no_grad()
    def __init__(self, task: LocalTask, updates: npt.NDArray[np.floating]) -> None:
        self._task, self._batches = task, Batches.draw(task)
        self._gradients = self._gradient_function(task)
        device = task.data.features.device
        self._weights = [torch.from_numpy(np.array(a)).to(device) for a in task.start.values()]
        hosts = split(updates, len(task.clients), task.start)
        self._hosts = [torch.from_numpy(host) for host in hosts.values()]

    @staticmethod
    def _gradient_function(task: LocalTask) -> GradientFunction:
        """Return the function that computes the network's gradients."""
        return perceptron_gradients

    @torch.no_grad()
    def train(self, chunk: slice) -> list[float]:
        """Train some of the clients; return the mean cross entropy of each over its steps.

        Threads may train different chunks at the same time.
        """
        hosts = [host[chunk] for host in self._hosts]
        on_host = self._weights[0].is_cpu
        results = hosts if on_host else [self._weights[0].new_empty(h.shape) for h in hosts]
        draws = self._task.draws[chunk]
        if self._task.algorithm == "fedavg":
            losses = self._adam_steps(results, self._steps(chunk), draws)
        else:
            losses = self._gradients(self._weights, results, next(self._steps(chunk)), draws, 0)
            self._clip(results)
        if not on_host:
            for host, result in zip(hosts, results, strict=True):
                host.copy_(result)
        return losses.tolist()

    def _steps(self, chunk: slice) -> Iterator[Batch]:
        """Yield the batches of some of the clients, step by step."""
        data, classes = self._task.data, len(self._weights[-1])
        device = self._batches.rows.device
        for step, count in enumerate(self._batches.counts[chunk].T):
            if not (width := int(count.max())):
                return
            rows = self._batches.rows[chunk, step, :width]
            clients: torch.Tensor | slice = slice(None)
            if not count.all():
                clients = count.nonzero()[:, 0].to(device)
                rows, count = rows[clients], count[count > 0]
            sizes = count.to(device)[:, None, None]
            places = torch.arange(width, device=device)[:, None]
            utterance_weights = (places < sizes).to(data.features.dtype) / sizes
            features = trim(data.features.index_select(0, rows.reshape(-1)))
            features = features.reshape(*rows.shape, *features.shape[1:])
            targets = F.one_hot(data.labels[rows], classes) * utterance_weights
            yield Batch(clients, features, targets, utterance_weights)

    def _adam_steps(self, params: Tensors, batches: Iterator[Batch], draws: Draws) -> torch.Tensor:
        """Write the updates of all steps into `params`; return mean losses, shape (k,)."""
        losses = params[0].new_zeros(len(params[0]))
        steps = torch.zeros_like(losses)
        gradients, means, squares = _adam_buffers(self._weights, len(losses))
        for param, weight in zip(params, self._weights, strict=True):
            param.copy_(weight)
        for step, batch in enumerate(batches):
            everyone = isinstance(batch.clients, slice)
            state = params, means, squares
            moved, own_means, own_squares = (
                part if everyone else [t[batch.clients] for t in part] for part in state
            )
            slopes = [g[: len(batch.targets)] for g in gradients]
            # In the first step all clients have the same weights.
            before = moved if step else self._weights
            own_draws = draws[batch.clients]
            losses[batch.clients] += self._gradients(before, slopes, batch, own_draws, step)
            steps[batch.clients] += 1
            self._clip(slopes)
            counts = list(steps.new_full((len(slopes),), step))
            self._adam_step(moved, slopes, own_means, own_squares, counts)
            if not everyone:
                for part, values in zip(state, (moved, own_means, own_squares), strict=True):
                    for tensor, value in zip(part, values, strict=True):
                        tensor[batch.clients] = value
        for param, weight in zip(params, self._weights, strict=True):
            param -= weight
        return losses / steps

    def _adam_step(
        self, params: Tensors, gradients: Tensors, means: Tensors, squares: Tensors, counts: Tensors
    ) -> None:
        """Move `params` by one step of Adam; `counts` holds the number of earlier steps."""
        config = self._task.training
        adam(
            params,
            gradients,
            means,
            squares,
            [],
            counts,
            fused=True,
            amsgrad=False,
            beta1=config.beta1,
            beta2=config.beta2,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            eps=config.adam_epsilon,
            maximize=False,
        )

    def _clip(self, gradients: Tensors) -> None:
        """Scale each client's gradient down, as `torch.nn.utils.clip_grad_norm_` does."""
        if self._task.clip is None:
            return
        parts = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
        norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        factors = (self._task.clip.norm / (norms + 1e-6)).clamp_(max=1.0)
        for g in gradients:
            g *= factors.view(-1, *[1] * (g.ndim - 1))


def perceptron_gradients(
    params: Tensors, into: Tensors, batch: Batch, draws: Draws, step: int
) -> torch.Tensor:
    """Write the gradients of each client's mean cross entropy, and return the latter, shape (a,).

    Parameters
    ----------
    params : list of Tensor
        Weights (a, m, n) and biases (a, m) in turn; or (m, n) and (m,), shared by all clients.
    into : list of Tensor
        Receives the gradients, shapes (a, m, n) and (a, m).
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
    losses: torch.Tensor = -(scores * batch.targets).sum((1, 2))
    slope = scores.exp_().mul_(batch.utterance_weights).sub_(batch.targets)
    for number in reversed(range(len(layers))):
        torch.bmm(slope.mT, inputs[number], out=into[2 * number])
        torch.sum(slope, dim=1, out=into[2 * number + 1])
        if number:
            slope = slope @ params[2 * number]
            slope *= inputs[number] > 0
            if masks:
                slope *= masks[number - 1]
    return losses


def _adam_buffers(like: Tensors, count: int) -> tuple[Tensors, Tensors, Tensors]:
    """Return undefined gradients and two zero moments, each shaped (count, ...) as in `like`."""
    sizes = [count * value.numel() for value in like]
    if like[0].is_cpu:
        flat = torch.from_numpy(borrow((3, sum(sizes)), like[0].numpy().dtype))
    else:
        flat = like[0].new_empty(3, sum(sizes))
    flat[1:].zero_()
    gradients, means, squares = (
        [part.view(count, *v.shape) for part, v in zip(torch.split(row, sizes), like, strict=True)]
        for row in flat
    )
    return gradients, means, squares
