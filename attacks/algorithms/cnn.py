"""The attack of the 2022 study: a convolutional network on one layer's pseudo-gradient.

Feng, Peri and Narayanan (Interspeech 2022, arXiv:2204.02500) attack with the network of Feng
et al. (2021, arXiv:2112.13416). Sizes, normalisation and training follow their code
(github.com/usc-sail/fed-ser-leakage): `model/attack_model.py`, and at commit 0323b95
`train/federated_attribute_attack.py` with the options of `train/README.md`.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fedser.attacks.algorithms.base import Stream, gather, layers_of
from fedser.client.training.evaluation import confusion_matrix
from fedser.common.arrays import Floats
from fedser.common.errors import UserError
from fedser.server.federation.scores import uar

SPREAD_FLOOR = np.float32(1e-5)  # added to each standard deviation, in pseudo-gradient units
VALIDATION_SHARE, PATIENCE = 0.2, 6


def pooling(rows: int, columns: int) -> list[tuple[int, tuple[int, int]]]:
    """Return the kernel and the stride of the pooling after each convolution.

    The published code chooses them by feature set and layer. This rule gives the same kernels for
    the published shapes: first layers of 256 x 988 or 768 (2, 4, 8), 512 (2, 4, 6) and 256
    (2, 4, 4), the second layer of 128 x 256 (2, 4, 4), and the last layer of 4 x 128. The last
    layer has few rows, and pooling keeps nearly all of them.

    Raises
    ------
    UserError
        If the layer is too small.
    """
    for last, width in ((8, 768), (6, 512), (4, 32)):
        if rows >= 8 * last and columns >= width:
            return [(2, (2, 2)), (4, (4, 4)), (last, (last, last))]
    if rows < 3 or columns < 6:
        raise UserError(
            f"adversary.layers: a layer of {rows} x {columns} weights is too small for attack=cnn, "
            "which needs 3 x 6: name another layer, or remove cnn from attack"
        )
    return [(1, (1, 1)), (2, (1, 4)), (2, (1, 4))]


class GradientCnn(nn.Module):
    """Convolutions over the gradient of an (h, d) weight, then a perceptron, also on the bias."""

    def __init__(self, rows: int, columns: int, classes: int, dropout: float) -> None:
        super().__init__()
        self._shape = (rows, columns)
        layers, steps = list[nn.Module](), pooling(rows, columns)
        for (n, m), (kernel, stride) in zip(pairwise((1, 16, 32, 64)), steps, strict=True):
            layers += [nn.Conv2d(n, m, 5, padding=2), *([nn.BatchNorm2d(m)] if m == 64 else [])]
            # Published as ReLU, then pooling: the same numbers in 1.4 times the time.
            layers += [nn.MaxPool2d(kernel, stride), nn.ReLU(), nn.Dropout2d(dropout)]
            rows, columns = (rows - kernel) // stride[0] + 1, (columns - kernel) // stride[1] + 1
        self.convolutions = nn.Sequential(*layers)
        layers, sizes = [], (64 * rows * columns + self._shape[0], 256, 128)
        for n, m in pairwise(sizes):
            layers += [nn.Linear(n, m), nn.ReLU(), nn.Dropout(dropout)]
        self.dense = nn.Sequential(*layers, nn.Linear(128, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities (n, classes); x has weights, then biases, (n, h d + h)."""
        weight, bias = torch.split(x, [math.prod(self._shape), self._shape[0]], dim=1)
        maps = self.convolutions(weight.reshape(-1, 1, *self._shape))
        return F.log_softmax(self.dense(torch.cat([maps.flatten(1), bias], 1)).float(), dim=1)


@dataclass
class Cnn:
    """Train `GradientCnn` on single shadow updates; each number is z-scored over all updates.

    A random fifth of the updates validates. A speaker may have updates on both sides, as
    published. The learning rate falls to a fifth if the validation loss has not fallen for four
    epochs. After the settling epochs, the epoch with the best validation UAR is kept. (The
    published code also compares with the first epoch, and fails if no epoch is better.) Training
    ends if the loss has not fallen for six epochs after the settling epochs. A GPU computes in
    float32. A CPU with AMX computes in bfloat16. On one core a training step then takes 0.041 s
    per update of 256 x 988, instead of 0.087 s in float32. On small layers with a planted class
    the AUC was the same (0.92 and 0.92 over 24 seeds).

    Attributes
    ----------
    max_examples : int or None
        Maximum number of shadow updates to fit to, drawn by the caller; None: all.
    epochs, settling_epochs : int
        Maximum number of passes over the training updates, and the passes before the selection.
    batch_size : int
        Updates per step.
    learning_rate, dropout : float
        Adam's first rate; share of channels, and of dense units, dropped in training.
    seed : int
        Of the split, the first weights, the order and the dropout masks.
    """

    name: ClassVar[str] = "cnn"
    large_features: ClassVar[bool] = True

    max_examples: int | None = None
    epochs: int = 50
    settling_epochs: int = 31
    batch_size: int = 20
    learning_rate: float = 1e-4
    dropout: float = 0.2
    seed: int = 0

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return the first layer's weight and bias gradient, (k, h d + h); raises as `pooling`."""
        _, weight, bias = next(layers_of(gradients))
        self._shape: tuple[int, int] = weight.shape[1:]
        pooling(*self._shape)
        return np.concatenate([weight.reshape(len(weight), -1), bias], axis=1)

    def fit(self, examples: Stream) -> None:
        """Train the network on shadow updates; it does not know their speakers, as published."""
        features, labels = gather(self.features, examples)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        features -= self._mean
        variance = np.einsum("ij,ij->j", features, features) / np.float32(len(features))
        self._spread = np.sqrt(variance) + SPREAD_FLOOR
        features /= self._spread
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.seed)
            network = GradientCnn(*self._shape, int(labels.max()) + 1, self.dropout).to(
                self._device
            )
            self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._train(torch.from_numpy(features), torch.from_numpy(labels))

    def _train(self, examples: Tensor, labels: Tensor) -> None:
        held = math.ceil(VALIDATION_SHARE * len(labels))
        validation, training = torch.split(torch.randperm(len(labels)), [held, len(labels) - held])
        adam = torch.optim.Adam(
            self._network.parameters(), self.learning_rate, (0.9, 0.98), 1e-9, weight_decay=1e-4
        )
        schedule = ReduceLROnPlateau(adam, factor=0.2, patience=3, min_lr=1e-6)
        best, kept = -math.inf, self._network.state_dict()
        lowest, waited = math.inf, 0
        for epoch in range(self.epochs):
            self._network.train()
            for batch in torch.split(training[torch.randperm(len(training))], self.batch_size):
                loss = F.nll_loss(self._forward(examples[batch]), labels[batch].to(self._device))
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
            parts = torch.split(validation, self.batch_size)
            found = self._evaluate(examples[batch] for batch in parts)
            now = float(F.nll_loss(found, labels[validation]))
            schedule.step(now)
            if epoch < min(self.settling_epochs, self.epochs - 1):
                continue
            guessed = found.argmax(dim=1).numpy()
            confusion = confusion_matrix(labels[validation].numpy(), guessed, found.shape[1])
            if (recall := uar(confusion)) > best:
                best, kept = recall, copy.deepcopy(self._network.state_dict())
            waited, lowest = (waited + 1 if now > lowest else 0), min(now, lowest)
            if waited == PATIENCE:
                break
        self._network.load_state_dict(kept)

    def score(self, features: Floats) -> Floats:
        """Return the log-probabilities of the classes, (n, C)."""
        starts = range(0, len(features), self.batch_size)
        parts = (features[i : i + self.batch_size] - self._mean for i in starts)
        return self._evaluate(torch.from_numpy(part / self._spread) for part in parts).numpy()

    def _evaluate(self, batches: Iterable[Tensor]) -> Tensor:
        self._network.eval()
        with torch.no_grad():
            return torch.cat([self._forward(batch).cpu() for batch in batches])

    def _forward(self, batch: Tensor) -> Tensor:
        fast = self._device == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
            found: Tensor = self._network(batch.to(self._device))
        return found
