"""Group speakers by age; the adversary can infer the attribute ``age_group`` like any other."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from fedser.client.corpora.base import Utterance
from fedser.common.errors import UserError


def is_age(text: str) -> bool:
    """Return whether a text is a number of years above 0."""
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def age_group(age: float, bounds: Sequence[int]) -> str:
    """Return the name of the group that contains an age.

    Parameters
    ----------
    bounds : sequence of int
        Youngest age of each group but the first, ascending.

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
    """Add the attribute ``age_group`` to each utterance with the attribute ``age``.

    Raises
    ------
    UserError
        If there are no bounds, or they are not above 0 and ascending.
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
