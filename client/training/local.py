"""Local training of one client in plain PyTorch."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from fedser.client.models.base import Recogniser, load_arrays, to_arrays
from fedser.client.training.dataset import trim
from fedser.client.training.dp_sgd import private_gradients
from fedser.client.training.task import LocalTask
from fedser.common.arrays import Arrays


def fedavg_update(task: LocalTask, row: int) -> tuple[Arrays, float]:
    """Train on one client's data and return its update (FedAvg; McMahan et al., 2017).

    Returns
    -------
    update : Arrays
        Local minus global weights.
    loss : float
        Mean cross entropy over the steps.
    """
    model, config = _model(task), task.training
    optimiser = torch.optim.Adam(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
    losses = []
    for loss in _gradients(model, task, row):
        losses.append(loss)
        optimiser.step()
    trained = to_arrays(model)
    return {n: trained[n] - task.start[n] for n in trained}, sum(losses) / len(losses)


def fedsgd_gradient(task: LocalTask, row: int) -> tuple[Arrays, float]:
    """Return the gradient of one random batch of a client at the global weights, and its loss."""
    model = _model(task)
    loss = next(_gradients(model, task, row))
    gradient = {n: p.grad.cpu().numpy() for n, p in model.named_parameters() if p.grad is not None}
    return gradient, loss


def _model(task: LocalTask) -> Recogniser:
    weights = [array for name, array in task.start.items() if name.endswith("weight")]
    with torch.device("meta"):  # the weights are overwritten, so none are drawn
        model = task.model.network(inputs=weights[0].shape[1], classes=weights[-1].shape[0])
    features = task.data.features
    model = model.to(features.dtype).to_empty(device=features.device)
    load_arrays(model, task.start)
    return model


def _gradients(model: Recogniser, task: LocalTask, row: int) -> Iterator[float]:
    """Put the gradient of each step into the model, and yield its mean cross entropy.

    The caller may change the weights before it asks for the next step.
    """
    if task.clip is not None and task.clip.per == "utterance":
        return private_gradients(model, task, row, task.clip)
    return _batch_gradients(model, task, row)


def _batch_gradients(model: Recogniser, task: LocalTask, row: int) -> Iterator[float]:
    examples, draws, clip = task.examples(row), task.draws[row : row + 1], task.clip
    size = torch.tensor([len(examples)], device=examples.labels.device)
    orders = (draws.orders(epoch, size)[0] for epoch in range(task.training.epochs))
    batches = (batch for order in orders for batch in torch.split(order, task.training.batch_size))
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
