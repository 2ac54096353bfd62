"""Canary clients: the audit lets them send a known update instead of a trained one."""

import numpy as np
import numpy.typing as npt

from fedser.client.training.task import LocalTask
from fedser.common.arrays import Arrays, flatten, unflatten


def canary_update(task: LocalTask, row: int) -> tuple[Arrays, float]:
    """Return one part of the global model, negated if the canary's label is 0, and a loss of 0.

    The audit sends the directions that it looks for as the global model. A canary has one
    example: its two features are the number of the canary's part and the number of parts. The
    update then passes what every update passes: the mechanism, the message, the server, the tap.
    """
    examples = task.examples(row)
    part, parts = (int(feature) for feature in examples.features[0])
    flat = flatten(task.start)
    own = part_of(flat, part, parts)
    sent = np.zeros_like(flat)
    sent[own] = flat[own] if int(examples.labels[0]) else -flat[own]
    return unflatten(sent, task.start), 0.0


def part_of(flat: npt.NDArray[np.floating], part: int, parts: int) -> npt.NDArray[np.int64]:
    """Return the positions of one of `parts` about equal parts of the nonzero entries."""
    positions = np.flatnonzero(flat)
    return positions[len(positions) * part // parts : len(positions) * (part + 1) // parts]
