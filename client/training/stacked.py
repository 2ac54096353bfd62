"""Local training of many clients as one batched computation, for GPUs.

Every parameter has a leading client axis; clients of unequal size are padded and masked. What
a client gets is what `client.training.local` gives it alone, to rounding. The gradient is written
out for the multilayer perceptron, over buffers that stay from one chunk of clients to the next, and
`client.training.vmapped` derives that of any other network. Nothing here runs in PyTorch's
inference mode: there `torch.func` of PyTorch 2.11 takes every gradient for zero, without a word.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.optim.adam import adam

from fedser.client.models.base import ModelConfig
from fedser.client.training.batches import Batches
from fedser.client.training.dataset import Dataset, trim
from fedser.client.training.draws import Draws
from fedser.common.arrays import Arrays
from fedser.common.buffers import borrow, split
from fedser.conf.training_keys import TrainingConfig

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """One step of those clients that still train: a of k, of up to b utterances each.

    Attributes
    ----------
    on : Tensor of int64, shape (a,), or slice
        Who they are.
    features : Tensor, shape (a, b, ...)
    truth : Tensor, shape (a, b, classes)
        One-hot labels, times the weights.
    weights : Tensor, shape (a, b, 1)
        One over the size of the client's batch, or 0 for padding.
    """

    on: torch.Tensor | slice
    features: torch.Tensor
    truth: torch.Tensor
    weights: torch.Tensor


Gradients = Callable[[Tensors, Tensors, Batch, Draws, int], torch.Tensor]
"""Computes what `perceptron_gradients` does, for a network."""


class Stack:
    """k clients about to train from the same weights, any chunk of them at a time.

    Parameters
    ----------
    algorithm : str
        ``fedavg`` or ``fedsgd``: chunks do as `fedavg_update` or `fedsgd_gradient` do for one.
    start : Arrays
        Global weights of the round, in the order of the network.
    batches : Batches
        Of these clients, who take one step of them with ``fedsgd``.
    draws : Draws
        Of these clients, on the device of the data.
    clipping_norm : float or None
        Bound on the L2 norm of each batch's gradient.
    into : ndarray, shape (k * P,)
        Takes the updates or gradients, to `common.buffers.split`.
    """

    @torch.no_grad()
    def __init__(
        self,
        algorithm: str,
        model: ModelConfig,
        start: Arrays,
        data: Dataset,
        batches: Batches,
        config: TrainingConfig,
        draws: Draws,
        clipping_norm: float | None,
        into: npt.NDArray[np.floating],
    ) -> None:
        self._gradients = self._derive(model, start)
        self._algorithm, self._config, self._clipping_norm = algorithm, config, clipping_norm
        device = data.features.device
        self._weights = [torch.from_numpy(np.array(a)).to(device) for a in start.values()]
        hosts = split(into, len(batches.rows), start)
        self._hosts = [torch.from_numpy(host) for host in hosts.values()]
        self._data, self._batches, self._draws = data, batches, draws

    @staticmethod
    def _derive(model: ModelConfig, start: Arrays) -> Gradients:
        """Return what computes the network's gradients."""
        return perceptron_gradients

    @torch.no_grad()
    def train(self, chunk: slice) -> list[float]:
        """Train some of the clients; returns each one's mean cross entropy over its steps.

        Threads may train different chunks at a time.
        """
        hosts = [host[chunk] for host in self._hosts]
        on_host = self._weights[0].is_cpu
        results = hosts if on_host else [self._weights[0].new_empty(h.shape) for h in hosts]
        draws = Draws(self._draws.keys[chunk], self._draws.dropout)
        batches = _steps(self._data, self._batches, chunk, len(self._weights[-1]))
        if self._algorithm == "fedavg":
            losses = _adam_steps(
                self._gradients,
                self._weights,
                results,
                batches,
                draws,
                self._clipping_norm,
                self._config,
            )
        else:
            losses = self._gradients(self._weights, results, next(batches), draws, 0)
            if self._clipping_norm is not None:
                _clip(results, self._clipping_norm)
        if not on_host:
            for host, result in zip(hosts, results, strict=True):
                host.copy_(result)
        return losses.tolist()


def _steps(data: Dataset, batches: Batches, chunk: slice, classes: int) -> Iterator[Batch]:
    """Yield some of the clients' batches, step by step."""
    device = batches.rows.device
    for step, count in enumerate(batches.counts[chunk].T):
        if not (width := int(count.max())):
            return
        rows = batches.rows[chunk, step, :width]
        on: torch.Tensor | slice = slice(None)
        if not count.all():
            on = count.nonzero()[:, 0].to(device)
            rows, count = rows[on], count[count > 0]
        sizes = count.to(device)[:, None, None]
        places = torch.arange(width, device=device)[:, None]
        weights = (places < sizes).to(data.features.dtype) / sizes
        features = trim(data.features.index_select(0, rows.reshape(-1)))
        features = features.reshape(*rows.shape, *features.shape[1:])
        truth = F.one_hot(data.labels[rows], classes) * weights
        yield Batch(on, features, truth, weights)


def _adam_steps(
    compute: Gradients,
    weights: Tensors,
    params: Tensors,
    batches: Iterator[Batch],
    draws: Draws,
    clipping_norm: float | None,
    config: TrainingConfig,
) -> torch.Tensor:
    """Write into `params` how all steps move the weights; returns mean losses, shape (k,)."""
    losses = params[0].new_zeros(len(params[0]))
    steps = torch.zeros_like(losses)
    count = len(params[0])
    gradients, means, squares = _stacks(weights, count)
    for param, weight in zip(params, weights, strict=True):
        param.copy_(weight)
    for step, batch in enumerate(batches):
        on, everyone = batch.on, isinstance(batch.on, slice)
        stacks = params, means, squares
        moved = [part if everyone else [t[on] for t in part] for part in stacks]
        slopes = [g[: len(batch.truth)] for g in gradients]
        own = Draws(draws.keys[on], draws.dropout)
        # In the first step all have the same weights.
        losses[on] += compute(moved[0] if step else weights, slopes, batch, own, step)
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
    for param, weight in zip(params, weights, strict=True):
        param -= weight
    return losses / steps


def perceptron_gradients(
    params: Tensors, into: Tensors, batch: Batch, draws: Draws, step: int
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


def _stacks(like: Tensors, count: int) -> tuple[Tensors, Tensors, Tensors]:
    """Return gradients, undefined, and Adam's moments, 0, for `count` tensors like each."""
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
