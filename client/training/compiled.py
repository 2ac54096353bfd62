"""Local training on a CPU as compiled code: client after client, with no Python in between.

Up to rounding, a client gets the update that `client.training.local` computes for it alone. The
update does not depend on the clients before it. All intermediate results lie in a scratch buffer
that the next client uses again; only the update goes to memory. The gradient is written out for
the multilayer perceptron.
"""

import math

import numpy as np
import numpy.typing as npt
import scipy.linalg  # noqa: F401  Numba takes BLAS from it

from fedser.client.models.linear import Linear
from fedser.client.models.mlp import Mlp
from fedser.client.training.batches import Batches
from fedser.client.training.task import LocalTask
from fedser.common.arrays import Ints
from fedser.common.buffers import borrow
from fedser.common.jit import compiled, sum_of_squares
from fedser.conf.training_keys import TrainingConfig

AnyFloats = npt.NDArray[np.floating]


class CompiledTrainer:
    """Train clients of a task in Numba code, any chunk of them at a time.

    Parameters
    ----------
    task : LocalTask
        For ``fedavg`` or ``fedsgd`` and an `Mlp` or `Linear`, with its data on the CPU and its
        `start` in the order of the network.
    updates : ndarray, shape (k * P,)
        Receives the updates or gradients, laid out for `common.buffers.split`.
    """

    def __init__(self, task: LocalTask, updates: AnyFloats) -> None:
        assert isinstance(task.model, Mlp | Linear)  # the gradient is written out for it
        self._task, self._updates, self._batches = task, updates, Batches.draw(task)
        arrays, config = list(task.start.values()), task.training
        self._widths = np.array([task.data.features.shape[1], *task.model.hidden, len(arrays[-1])])
        self._start = np.concatenate([array.ravel() for array in arrays])
        self._bounds = np.cumsum([0, *(array.size for array in arrays)])
        self._clipping_norm = np.inf if task.clip is None else task.clip.norm
        beta1, beta2, dtype = config.beta1, config.beta2, self._start.dtype
        adam = [beta1, 1 - beta1, beta2, 1 - beta2, config.adam_epsilon, config.weight_decay]
        self._adam = np.array([config.learning_rate, *adam], dtype)
        self._bias_correction = _bias_correction(config, self._batches.counts.shape[1])
        self._bias_correction = self._bias_correction.astype(dtype)

    def train(self, chunk: slice) -> list[float]:
        """Train some of the clients; return the mean cross entropy of each over its steps.

        Threads may train different chunks at the same time.
        """
        clients = len(self._task.clients)
        first, end, _ = chunk.indices(clients)
        rows, counts = (part[chunk].numpy() for part in (self._batches.rows, self._batches.counts))
        draws, is_fedavg = self._task.draws[chunk], self._task.algorithm == "fedavg"
        units = int(self._widths[1:-1].sum()) if draws.dropout > 0 else 0
        kept = np.empty((*rows.shape, units), np.bool_)
        if units:
            for step in range(rows.shape[1] if is_fedavg else 1):
                kept[:, step] = draws.kept(step, rows.shape[2], units).numpy()
        losses = np.empty(end - first)
        _train(
            self._start,
            self._widths,
            self._bounds,
            self._task.data.features.numpy(),
            self._task.data.labels.numpy(),
            rows,
            counts,
            kept,
            self._start.dtype.type(1 / (1 - draws.dropout)),
            is_fedavg,
            self._adam,
            self._bias_correction,
            self._clipping_norm,
            borrow((5, len(self._start)), self._start.dtype),
            self._updates,
            clients,
            first,
            losses,
        )
        return losses.tolist()


def _bias_correction(config: TrainingConfig, steps: int) -> npt.NDArray[np.float64]:
    """Return the factors that make Adam's mean and root mean square unbiased, shape (steps, 2)."""
    power = np.arange(1, steps + 1)
    return np.stack([1 / (1 - config.beta1**power), (1 - config.beta2**power) ** -0.5], axis=1)


@compiled
def _train(
    start: AnyFloats,
    widths: Ints,
    bounds: Ints,
    features: AnyFloats,
    labels: Ints,
    rows: Ints,
    counts: Ints,
    kept: npt.NDArray[np.bool_],
    scale: np.floating,
    is_fedavg: bool,
    adam: AnyFloats,
    bias_correction: AnyFloats,
    clipping_norm: float,
    scratch: AnyFloats,
    updates: AnyFloats,
    clients: int,
    first: int,
    losses: AnyFloats,
) -> None:
    """Train the clients `first`, `first` + 1, ... of `clients`, with these batches."""
    one = start.dtype.type(1)
    params, first_gradient, gradient = scratch[0], scratch[1], scratch[2]
    means, squares = scratch[3], scratch[4]
    activations = np.empty(rows.shape[2] * widths.sum(), start.dtype)
    slopes = np.empty_like(activations)
    for client in range(len(rows)):
        steps = (counts[client] > 0).sum() if is_fedavg else 1
        loss, previous_factor = 0.0, one
        for step in range(steps):
            weights = params if step else start
            slope = gradient if step else first_gradient
            utterances = rows[client, step, : counts[client, step]]
            size = len(utterances)
            for i in range(size):
                activations[i * widths[0] : (i + 1) * widths[0]] = features[utterances[i]]
            _forward(weights, widths, activations, size, kept[client, step], scale)
            loss += _loss(widths, activations, slopes, labels[utterances])
            _backward(weights, widths, activations, slopes, size, scale, slope)
            factor = one
            if clipping_norm < np.inf:
                norm = math.sqrt(sum_of_squares(slope))
                factor = start.dtype.type(min(1.0, clipping_norm / (norm + 1e-6)))
            for part in range(len(bounds) - 1):
                i, j = bounds[part], bounds[part + 1]
                row = clients * i + (first + client) * (j - i)
                out = updates[row : row + j - i]
                if not is_fedavg:
                    for at in range(j - i):
                        out[at] = factor * slope[i + at]
                elif step == 0:
                    _first_step(
                        start[i:j],
                        first_gradient[i:j],
                        factor,
                        adam,
                        params[i:j],
                        out,
                        step == steps - 1,
                    )
                else:
                    _next_step(
                        start[i:j],
                        first_gradient[i:j],
                        previous_factor,
                        gradient[i:j],
                        factor,
                        adam,
                        bias_correction[step],
                        means[i:j],
                        squares[i:j],
                        params[i:j],
                        out,
                        step == 1,
                        step == steps - 1,
                    )
            previous_factor = factor
        losses[client] = loss / steps


@compiled
def _forward(
    weights: AnyFloats,
    widths: Ints,
    activations: AnyFloats,
    size: int,
    kept: npt.NDArray[np.bool_],
    scale: np.floating,
) -> None:
    """Compute the activations of a batch, layer after layer, from its features."""
    layers, begin, at, unit = len(widths) - 1, 0, 0, 0
    zero = weights.dtype.type(0)
    for layer in range(layers):
        n, m = widths[layer], widths[layer + 1]
        weight, bias = weights[begin : begin + m * n].reshape(m, n), weights[begin + m * n :]
        inputs = activations[at : at + size * n].reshape(size, n)
        at += size * n
        outputs = activations[at : at + size * m].reshape(size, m)
        np.dot(inputs, weight.T, outputs)
        for i in range(size):
            for j in range(m):
                outputs[i, j] += bias[j]
        if layer < layers - 1:
            for i in range(size):
                for j in range(m):
                    if outputs[i, j] < zero:
                        outputs[i, j] = zero
            if kept.shape[1]:
                for i in range(size):
                    for j in range(m):
                        outputs[i, j] *= scale if kept[i, unit + j] else zero
        unit += m
        begin += m * n + m


@compiled
def _loss(widths: Ints, activations: AnyFloats, slopes: AnyFloats, truth: Ints) -> float:
    """Return the mean cross entropy of a batch, and write its derivative by the scores."""
    size, classes = len(truth), widths[-1]
    at = size * widths[:-1].sum()
    total = 0.0
    for i in range(size):
        scores = activations[at + i * classes : at + (i + 1) * classes]
        slope = slopes[at + i * classes : at + (i + 1) * classes]
        shifted = scores - scores.max()
        slope[:] = np.exp(shifted)
        partition = slope.sum()
        total += np.log(partition) - shifted[truth[i]]
        slope /= partition
        slope[truth[i]] -= 1
        slope /= size
    return total / size


@compiled
def _backward(
    weights: AnyFloats,
    widths: Ints,
    activations: AnyFloats,
    slopes: AnyFloats,
    size: int,
    scale: np.floating,
    gradient: AnyFloats,
) -> None:
    """Write the gradient of a batch by all weights, given its derivative by the scores."""
    begin, at = len(weights), size * widths.sum()
    zero = weights.dtype.type(0)
    for layer in range(len(widths) - 2, -1, -1):
        n, m = widths[layer], widths[layer + 1]
        at -= size * m
        begin -= m * n + m
        slope = slopes[at : at + size * m].reshape(size, m)
        inputs = activations[at - size * n : at].reshape(size, n)
        np.dot(slope.T, inputs, gradient[begin : begin + m * n].reshape(m, n))
        by_bias = gradient[begin + m * n : begin + m * n + m]
        by_bias[:] = zero
        for i in range(size):
            for j in range(m):
                by_bias[j] += slope[i, j]
        if layer:
            weight = weights[begin : begin + m * n].reshape(m, n)
            further = slopes[at - size * n : at].reshape(size, n)
            np.dot(slope, weight, further)
            for i in range(size):
                for j in range(n):  # dropped units are 0, too
                    further[i, j] *= scale if inputs[i, j] > zero else zero


@compiled
def _first_step(
    start: AnyFloats,
    gradient: AnyFloats,
    factor: np.floating,
    adam: AnyFloats,
    params: AnyFloats,
    out: AnyFloats,
    last: bool,
) -> None:
    """Take Adam's first step: its unbiased moments are the gradient and its square."""
    rate, epsilon, decay = adam[0], adam[5], adam[6]
    for i in range(len(start)):
        g = factor * gradient[i] + decay * start[i]
        move = rate * g / (abs(g) + epsilon)
        if last:
            out[i] = -move
        else:
            params[i] = start[i] - move


@compiled
def _next_step(
    start: AnyFloats,
    first_gradient: AnyFloats,
    previous_factor: np.floating,
    gradient: AnyFloats,
    factor: np.floating,
    adam: AnyFloats,
    bias_correction: AnyFloats,
    means: AnyFloats,
    squares: AnyFloats,
    params: AnyFloats,
    out: AnyFloats,
    second: bool,
    last: bool,
) -> None:
    """Take a later step of Adam; the second step computes the moments of the first, too."""
    rate, beta1, rest1, beta2, rest2, epsilon, decay = adam
    length, spread = rate * bias_correction[0], bias_correction[1]
    for i in range(len(start)):
        if second:
            h = previous_factor * first_gradient[i] + decay * start[i]
            mean, square = rest1 * h, rest2 * h * h
        else:
            mean, square = means[i], squares[i]
        g = factor * gradient[i] + decay * params[i]
        mean = beta1 * mean + rest1 * g
        square = beta2 * square + rest2 * g * g
        moved = params[i] - length * mean / (np.sqrt(square) * spread + epsilon)
        if last:
            out[i] = moved - start[i]
        else:
            means[i], squares[i], params[i] = mean, square, moved
