"""Local training of one client, with or without a bound on what an utterance contributes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from fedser.client.models.base import ModelConfig, Recogniser, load_arrays, to_arrays
from fedser.client.privacy.noise import GradientClip
from fedser.client.privacy.rounded_gaussian import standard_normal
from fedser.client.training.dataset import Examples, trim
from fedser.client.training.draws import Draws
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource, uniforms
from fedser.conf.training_keys import TrainingConfig

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer


def fedavg_update(
    model_config: ModelConfig,
    start: Arrays,
    examples: Examples,
    config: TrainingConfig,
    draws: Draws,
    clip: GradientClip | None,
    noise: NoiseSource,
) -> tuple[Arrays, float]:
    """Train on one client's data (McMahan et al., 2017) and return how the weights moved.

    Parameters
    ----------
    start : Arrays
        Global weights of the round.
    draws : Draws
        The client's order of utterances and dropout masks.
    clip : GradientClip or None
        Bound on the gradients.
    noise : NoiseSource
        Where gradients are clipped per utterance, draws all in place of `draws`.

    Returns
    -------
    update : Arrays
        Local minus global weights.
    loss : float
        Mean cross entropy over the steps; a Poisson batch without an utterance counts as 0.
    """
    model = _model(model_config, start, examples)
    optimiser = torch.optim.Adam(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
    losses = []
    for loss in _gradients(model, examples, config, draws, clip, noise):
        losses.append(loss)
        optimiser.step()
    trained = to_arrays(model)
    return {name: trained[name] - start[name] for name in trained}, sum(losses) / len(losses)


def fedsgd_gradient(
    model_config: ModelConfig,
    start: Arrays,
    examples: Examples,
    config: TrainingConfig,
    draws: Draws,
    clip: GradientClip | None,
    noise: NoiseSource,
) -> tuple[Arrays, float]:
    """Return the gradient of one random batch at the global weights, and its loss.

    Parameters are those of `fedavg_update`.
    """
    model = _model(model_config, start, examples)
    loss = next(_gradients(model, examples, config, draws, clip, noise))
    gradient = {n: p.grad.cpu().numpy() for n, p in model.named_parameters() if p.grad is not None}
    return gradient, loss


def _model(config: ModelConfig, start: Arrays, examples: Examples) -> Recogniser:
    weights = [array for name, array in start.items() if name.endswith("weight")]
    with torch.device("meta"):  # weights are overwritten: skip drawing them
        model = config.network(inputs=weights[0].shape[1], classes=weights[-1].shape[0])
    model = model.to(examples.features.dtype).to_empty(device=examples.features.device)
    load_arrays(model, start)
    return model


def _gradients(
    model: Recogniser,
    examples: Examples,
    config: TrainingConfig,
    draws: Draws,
    clip: GradientClip | None,
    noise: NoiseSource,
) -> Iterator[float]:
    """Put the gradient of each step of a round into the model, and yield its mean cross entropy.

    The caller moves the weights, if at all, before it asks for the next.
    """
    if clip is None or clip.per == "batch":
        return _batch_gradients(model, examples, config, draws, clip)
    return _private_gradients(model, examples, config, clip, noise)


def _batch_gradients(
    model: Recogniser,
    examples: Examples,
    config: TrainingConfig,
    draws: Draws,
    clip: GradientClip | None,
) -> Iterator[float]:
    size = torch.tensor([len(examples)], device=examples.labels.device)
    orders = (draws.orders(epoch, size)[0] for epoch in range(config.epochs))
    batches = (batch for order in orders for batch in torch.split(order, config.batch_size))
    for step, batch in enumerate(batches):
        model.zero_grad()
        masks = draws.masks(step, len(batch), model.hidden)
        features = trim(examples.features[batch])
        scores = model(features, lambda layer, x, masks=masks: masks[layer][0])
        loss = F.cross_entropy(scores, examples.labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip.norm)
        yield float(loss.detach())


def _private_gradients(
    model: Recogniser,
    examples: Examples,
    config: TrainingConfig,
    clip: GradientClip,
    noise: NoiseSource,
) -> Iterator[float]:
    """Differentially private gradients (Abadi et al., 2016)."""
    from opacus import GradSampleModule  # slow to import: not where nobody needs it

    rate = config.sampling_rate(len(examples))
    network = GradSampleModule(model, loss_reduction="sum")
    optimiser = _private_optimiser(model, clip, rate * len(examples), noise)

    def masks(layer: int, x: torch.Tensor) -> torch.Tensor:
        # They are dealt out in the order of the batch, so an utterance more shifts those of all
        # after it: its influence stays within the clip only while they are as secret as batches.
        kept = torch.from_numpy(uniforms(noise, x.numel()) >= model.dropout)
        return kept.view(x.shape).to(x) / (1 - model.dropout)

    try:
        for _ in range(config.steps(len(examples))):
            batch = poisson_batch(len(examples), rate, noise).to(examples.labels.device)
            optimiser.zero_grad()
            # A layer's hook warns where its input needs no gradient: the features get one too.
            scores = network(trim(examples.features[batch]).requires_grad_(), masks)
            loss = F.cross_entropy(scores, examples.labels[batch], reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.pre_step()  # clip, sum, add noise, divide
            yield float(loss.detach()) / max(1, len(batch))
    finally:
        # The hooks hold the network and the network its hooks: left so, the gradients of
        # client after client would fill the memory until Python looks for cycles.
        network.to_standard_module()


def poisson_batch(num_examples: int, rate: float, noise: NoiseSource) -> torch.Tensor:
    """Return the indices of a batch that each utterance joins alone with probability `rate`.

    Batches must be secret, or sampling amplifies no guarantee: they come from the noise's source.
    """
    return torch.from_numpy(np.flatnonzero(uniforms(noise, num_examples) < rate))


def _private_optimiser(
    model: Recogniser, clip: GradientClip, expected_batch_size: float, noise: NoiseSource
) -> "DPOptimizer":
    """Return what turns the gradients of utterances into one noised mean."""
    from opacus.optimizers import DPOptimizer

    class SourcedOptimizer(DPOptimizer):  # type: ignore[misc]
        """Draws on the CPU from the noise's source: a seed means the same on every device."""

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
