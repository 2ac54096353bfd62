"""Gradients of any network, at the weights of many clients at a time (`torch.func`)."""

import torch
from torch.func import functional_call, grad_and_value, vmap

from fedser.client.training.draws import Draws
from fedser.client.training.stacked import Batch, GradientFunction, StackedTrainer, Tensors
from fedser.client.training.task import LocalTask

MOST_ROWS = 2**18
"""Vectors or frames that pass the network at a time, unless one client's batch has more."""


class VmappedTrainer(StackedTrainer):
    """A `StackedTrainer` for any network: PyTorch derives the gradient."""

    @staticmethod
    def _gradient_function(task: LocalTask) -> GradientFunction:
        weights = [array for name, array in task.start.items() if name.endswith("weight")]
        with torch.device("meta"):  # the network's own weights are not used
            network = task.model.network(inputs=weights[0].shape[1], classes=weights[-1].shape[0])

        def loss(
            params: Tensors, features: torch.Tensor, targets: torch.Tensor, masks: Tensors
        ) -> torch.Tensor:
            own = dict(zip(task.start, params, strict=True))
            dropout = (lambda layer, x: masks[layer]) if masks else None
            scores: torch.Tensor = functional_call(network, own, (features, dropout))
            return -(scores.log_softmax(dim=1) * targets).sum()

        def gradients(
            params: Tensors, into: Tensors, batch: Batch, draws: Draws, step: int
        ) -> torch.Tensor:
            size, masks = batch.features.shape[1], Tensors()
            if draws.dropout > 0:
                masks = draws.masks(step, size, network.hidden)
            params_axis = 0 if params[0].ndim > weights[0].ndim else None
            most = max(1, MOST_ROWS * batch.features.shape[-1] // batch.features[0].numel())
            compute = vmap(grad_and_value(loss), (params_axis, 0, 0, 0), chunk_size=most)
            found: Tensors
            losses: torch.Tensor
            found, losses = compute(params, batch.features, batch.targets, masks)
            for target, gradient in zip(into, found, strict=True):
                target.copy_(gradient)
            return losses

        return gradients
