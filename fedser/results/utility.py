"""Utility in ``results.json``: the test figures of each fold, and the UAR of guessing."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from fedser.client.corpora.base import EMOTIONS
from fedser.results.files import Results


def fold_values(results: Results, figure: str = "uar") -> list[float]:
    """Return one figure ("uar" or "accuracy", from 0 to 1) of each fold that has it."""
    folds = results["utility"]["per_fold"]
    return [fold[figure] for fold in folds if fold[figure] is not None]


def fold_chance(fold: Mapping[str, Any]) -> float:
    """Return the test UAR of guessing in a fold: one over the number of emotions in its test set.

    A model that always answers with one of these emotions has this UAR. Without a confusion
    matrix all emotions count.
    """
    occurring = [row for row in fold.get("confusion", []) if any(row)]
    return 1 / (len(occurring) or len(EMOTIONS))


def chance_uar(results: Results) -> float:
    """Return the test UAR of guessing: the mean over folds, as for the test UAR."""
    return fmean(map(fold_chance, results["utility"]["per_fold"] or [{}]))


def reference_uars(results: Results) -> dict[str, float]:
    """Return the test UARs that stand beside that of a run, by what they are; only those known."""
    utility = results["utility"]
    known = {
        "public speech alone": utility.get("public_uar"),
        "without the mechanism": utility.get("unprotected_uar"),
    }
    return {label: uar for label, uar in known.items() if uar is not None}
