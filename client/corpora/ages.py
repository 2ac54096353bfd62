"""Cut ages into groups, which an adversary can be after as after any other attribute."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from fedser.client.corpora.base import Utterance
from fedser.common.errors import UserError


def is_age(text: str) -> bool:
    """Say whether a text is a number of years above 0."""
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def age_group(age: float, bounds: Sequence[int]) -> str:
    """Name the group that an age falls into.

    Parameters
    ----------
    bounds : sequence of int
        Ascending: each is the youngest age of its group, and the first group is below them all.

    Examples
    --------
    >>> [age_group(age, [30, 45]) for age in (29, 30, 45)]
    ['below 30', '30 to 44', '45 and above']
    """
    group = bisect_right(bounds, age)
    if group == 0:
        return f"below {bounds[0]}"
    youngest = bounds[group - 1]
    if group == len(bounds):
        return f"{youngest} and above"
    oldest = bounds[group] - 1
    return f"{youngest} to {oldest}" if oldest > youngest else str(youngest)


def with_age_groups(utterances: Sequence[Utterance], bounds: Sequence[int]) -> list[Utterance]:
    """Add the attribute ``age_group`` wherever ``age`` is known.

    Raises
    ------
    UserError
        If there are no bounds, or they do not ascend from above 0.
    """
    if not bounds or list(bounds) != sorted({b for b in bounds if b > 0}):
        raise UserError(
            f"age_bounds={list(bounds)}: must be ages above 0 in ascending order, such as [30, 45]"
        )
    return [_with_age_group(utterance, bounds) for utterance in utterances]


def _with_age_group(utterance: Utterance, bounds: Sequence[int]) -> Utterance:
    if "age" not in utterance.attributes:
        return utterance
    group = age_group(float(utterance.attributes["age"]), bounds)
    return replace(utterance, attributes={**utterance.attributes, "age_group": group})
