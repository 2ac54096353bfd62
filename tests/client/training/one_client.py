"""One client's task and training by the equations, which several tests share."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import Mechanism
from fedser.client.privacy.noise import GradientClip
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.local import fedavg_update, fedsgd_gradient
from fedser.client.training.task import LocalTask
from fedser.common.seeds import Reproducible
from fedser.conf.training_keys import TrainingConfig

MODEL = Mlp(hidden=[6, 5], dropout=0.2)
NO_DROPOUT = Mlp(hidden=[6, 5], dropout=0.0)
START = initial_arrays(MODEL, 7, 4, seed=3)
TRAINERS = (fedavg_update, fedsgd_gradient)


@dataclass(frozen=True)
class Clipping(Mechanism):
    """Clip gradients as told, and leave the update as it is."""

    clip: GradientClip | None

    @property
    def gradient(self):
        return self.clip


def task_of(data, *, model=MODEL, start=START, config=None, seed=0, clip=None, noise=None):
    """The task of one client, which has these examples."""
    return LocalTask(
        algorithm="fedavg",
        model=model,
        start=start,
        training=config or TrainingConfig(),
        mechanism=Clipping(clip),
        data=Dataset.of([data]),
        clients=[0],
        seed=seed,
        stream=(),
        noises=[noise or Reproducible(seed)],
    )


def train(trainer, data, **options):
    return trainer(task_of(data, **options), 0)


def examples(count: int) -> Examples:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Examples(torch.randn(count, 7, generator=generator), labels)


def subset(data, indices):
    return Examples(data.features[indices], data.labels[indices])


def double_model(config):
    model = config.network(7, 4)
    load_arrays(model, START)
    return model.double()


def clipped_gradient(model, data, bound, masks=None):
    """One batch's mean gradient, scaled down to the bound."""
    model.zero_grad()
    F.cross_entropy(model(data.features.double(), masks), data.labels).backward()
    length = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    factor = 1.0 if bound is None else min(1.0, bound / float(length))
    return {name: p.grad * factor for name, p in model.named_parameters()}


def reference_adam(model, config, gradients):
    """Adam by its equations in float64."""
    moments = {n: [torch.zeros_like(p), torch.zeros_like(p)] for n, p in model.named_parameters()}
    for step, gradient in enumerate(gradients, start=1):
        with torch.no_grad():
            for name, p in model.named_parameters():
                g = gradient[name] + config.weight_decay * p
                m, v = moments[name]
                m.mul_(config.beta1).add_(g, alpha=1 - config.beta1)
                v.mul_(config.beta2).add_(g * g, alpha=1 - config.beta2)
                m_hat, v_hat = m / (1 - config.beta1**step), v / (1 - config.beta2**step)
                p -= config.learning_rate * m_hat / (v_hat.sqrt() + config.adam_epsilon)
    return {n: p.detach().numpy() - START[n] for n, p in model.named_parameters()}
