"""Local training of one client."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from client.mechanism import Arrays
from client.model import ModelConfig, Recogniser, load_arrays, to_arrays


@dataclass
class TrainingConfig:
    """Local optimisation; the defaults are those of the 2022 study.

    Attributes
    ----------
    epochs, batch_size : int
        Passes over a client's utterances and utterances a step (FedSGD: one step, one batch).
    learning_rate, weight_decay, beta1, beta2, adam_epsilon : float
        Adam's settings (Kingma and Ba, 2015); FedSGD uses none of them on the client.
    """

    epochs: int = 1
    batch_size: int = 20
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.98
    adam_epsilon: float = 1e-9

    def steps(self, num_examples: int) -> int:
        """Adam steps that a client of this size takes in a round."""
        return self.epochs * -(-num_examples // self.batch_size)


@dataclass(frozen=True)
class Examples:
    """Features of shape (n, d) in float32 and labels of shape (n,) in int64."""

    features: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return n."""
        return len(self.labels)


def fedavg_update(
    model_config: ModelConfig,
    start: Arrays,
    examples: Examples,
    config: TrainingConfig,
    generator: torch.Generator,
    gradient_clip: float | None,
) -> tuple[Arrays, float]:
    """Train on one client's data (McMahan et al., 2017) and return how the weights moved.

    Parameters
    ----------
    start : Arrays
        Global weights of the round.
    generator : torch.Generator
        Draws the order of utterances and the dropout masks.
    gradient_clip : float or None
        Bound on the L2 norm of each batch gradient.

    Returns
    -------
    update : Arrays
        Local minus global weights.
    loss : float
        Mean cross entropy over the steps.
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
    for _ in range(config.epochs):
        order = torch.randperm(len(examples), generator=generator).to(examples.labels.device)
        for batch in torch.split(order, config.batch_size):
            losses.append(_gradient(model, examples, batch, generator, gradient_clip))
            optimiser.step()
    trained = to_arrays(model)
    return {name: trained[name] - start[name] for name in trained}, sum(losses) / len(losses)


def fedsgd_gradient(
    model_config: ModelConfig,
    start: Arrays,
    examples: Examples,
    config: TrainingConfig,
    generator: torch.Generator,
    gradient_clip: float | None,
) -> tuple[Arrays, float]:
    """Return the gradient of one random batch at the global weights, and its loss.

    Parameters are those of `fedavg_update`.
    """
    model = _model(model_config, start, examples)
    order = torch.randperm(len(examples), generator=generator).to(examples.labels.device)
    loss = _gradient(model, examples, order[: config.batch_size], generator, gradient_clip)
    gradient = {n: p.grad.cpu().numpy() for n, p in model.named_parameters() if p.grad is not None}
    return gradient, loss


def _model(config: ModelConfig, start: Arrays, examples: Examples) -> Recogniser:
    weights = [array for name, array in start.items() if name.endswith("weight")]
    with torch.device("meta"):  # weights are overwritten: skip drawing them
        model = Recogniser(config, inputs=weights[0].shape[1], classes=weights[-1].shape[0])
    model = model.to_empty(device=examples.features.device)
    load_arrays(model, start)
    return model


def _gradient(
    model: Recogniser,
    examples: Examples,
    batch: torch.Tensor,
    generator: torch.Generator,
    gradient_clip: float | None,
) -> float:
    """Put one batch's gradient into the model and return its mean cross entropy."""
    model.zero_grad()
    scores = model(examples.features[batch], generator)
    loss = F.cross_entropy(scores, examples.labels[batch])
    loss.backward()  # type: ignore[no-untyped-call]
    if gradient_clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
    return float(loss.detach())
