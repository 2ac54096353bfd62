"""Differentially private gradients of one client (DP-SGD; Abadi et al., 2016)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from fedser.client.models.base import Recogniser
from fedser.client.privacy.noise import GradientClip
from fedser.client.privacy.rounded_gaussian import standard_normal
from fedser.client.training.dataset import trim
from fedser.client.training.task import LocalTask
from fedser.common.seeds import NoiseSource, uniforms

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer


def private_gradients(
    model: Recogniser, task: LocalTask, row: int, clip: GradientClip
) -> Iterator[float]:
    """Put the noised gradient of each step into the model, and yield its mean cross entropy.

    An empty Poisson batch counts as a loss of 0.
    """
    from opacus import GradSampleModule  # slow to import, and only DP-SGD needs it

    examples, noise = task.examples(row), task.noises[row]
    rate = task.training.sampling_rate(len(examples))
    network = GradSampleModule(model, loss_reduction="sum")
    optimiser = _private_optimiser(model, clip, rate * len(examples), noise)

    def masks(layer: int, x: torch.Tensor) -> torch.Tensor:
        # The batch uses up the random numbers in its order, so one more utterance changes the
        # masks of all later ones. The clip bounds its influence only if masks stay secret.
        kept = torch.from_numpy(uniforms(noise, x.numel()) >= model.dropout)
        return kept.view(x.shape).to(x) / (1 - model.dropout)

    try:
        for _ in range(task.training.steps(len(examples))):
            batch = poisson_batch(len(examples), rate, noise).to(examples.labels.device)
            optimiser.zero_grad()
            # The hook of a layer warns if its input needs no gradient, so the features need one.
            scores = network(trim(examples.features[batch]).requires_grad_(), masks)
            loss = F.cross_entropy(scores, examples.labels[batch], reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.pre_step()  # clip, sum, add noise, divide
            yield float(loss.detach()) / max(1, len(batch))
    finally:
        # The hooks and the network refer to each other. Without this call the gradients of each
        # client would stay in memory until Python's garbage collector finds the cycle.
        network.to_standard_module()


def poisson_batch(num_examples: int, rate: float, noise: NoiseSource) -> torch.Tensor:
    """Return the indices of a batch that each utterance joins independently, with chance `rate`.

    The batch must be secret, or sampling amplifies no guarantee. It is drawn from `noise`.
    """
    return torch.from_numpy(np.flatnonzero(uniforms(noise, num_examples) < rate))


def _private_optimiser(
    model: Recogniser, clip: GradientClip, expected_batch_size: float, noise: NoiseSource
) -> "DPOptimizer":
    """Return the optimiser that turns the gradients of utterances into one noised mean."""
    from opacus.optimizers import DPOptimizer

    class SourcedOptimizer(DPOptimizer):  # type: ignore[misc]
        """Draw noise on the CPU from `noise`: a seed gives the same noise on every device."""

        def add_noise(self) -> None:
            stddev = np.float32(clip.noise_multiplier * clip.norm)
            for p in self.params:
                drawn = stddev * standard_normal(noise, tuple(p.shape))
                p.grad = p.summed_grad + torch.from_numpy(drawn).to(p.device)

    return SourcedOptimizer(
        torch.optim.SGD(model.parameters()),  # names the parameters, never steps
        noise_multiplier=clip.noise_multiplier,
        max_grad_norm=clip.norm,
        expected_batch_size=expected_batch_size,
    )
