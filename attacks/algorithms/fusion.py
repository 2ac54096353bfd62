"""Fusion: what several attacks say together, weighted by what they say of shadow speakers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.linear_model import LogisticRegression

from fedser.attacks.algorithms.base import score_columns
from fedser.attacks.algorithms.linear import class_scores

KEYS = ["federation", "client", "leaked", "draw"]
Floats64 = npt.NDArray[np.float64]


@dataclass
class Fusion:
    """Stacking: a logistic regression on the scores of other attacks.

    It learns from shadow speakers as scored by attacks that never met them, for each number of
    leaked updates by itself: which attack to trust depends on how much has leaked. Noise and
    strange corpora move and shrink an attack's scores, all alike: so they are first z-scored
    within the victims of a federation, and within speakers whom the same attack had not met.

    Attributes
    ----------
    of : list of str
        Attacks to fuse; they have to be among those of the run.
    inverse_regularisation : float
        ``C`` of `sklearn.linear_model.LogisticRegression`.
    """

    name: ClassVar[str] = "fusion"
    of: list[str]
    inverse_regularisation: float

    def fuse(
        self, rehearsed: Mapping[str, pd.DataFrame], victims: Mapping[str, pd.DataFrame]
    ) -> pd.DataFrame:
        """Learn from rehearsed scores and judge the victims' scores.

        Parameters
        ----------
        rehearsed, victims : mapping of str to DataFrame
            By attack: ``federation``, ``client``, ``leaked``, ``draw`` and ``score_*``;
            rehearsed ones with ``label`` and ``group``.

        Returns
        -------
        DataFrame
            As the victims' scores of one attack.
        """
        learn = _side_by_side(rehearsed, ["label", "group"])
        judge = _side_by_side(victims, [])
        parts = []
        for leaked, rows in judge.groupby("leaked", sort=False):
            known = learn[learn["leaked"] == leaked]
            model = LogisticRegression(C=self.inverse_regularisation, class_weight="balanced")
            model.fit(_inputs(known, ["federation", "group"]), known["label"])
            scores = class_scores(model.decision_function(_inputs(rows, ["federation"])))
            parts.append(rows[KEYS].assign(**score_columns(scores)))
        return pd.concat(parts, ignore_index=True)


def _side_by_side(scores: Mapping[str, pd.DataFrame], more: list[str]) -> pd.DataFrame:
    """Join the attacks' scores on what they are of; a column says whose score each is."""
    frames = [
        frame.set_index([*KEYS, *more]).add_prefix(f"{name} ") for name, frame in scores.items()
    ]
    return pd.concat(frames, axis=1, join="inner").reset_index()


def _inputs(rows: pd.DataFrame, alike: list[str]) -> Floats64:
    """Return each attack's log-odds, z-scored within the rows that are alike in some columns."""
    names = dict.fromkeys(c.rsplit(" score_", 1)[0] for c in map(str, rows) if " score_" in c)
    inputs = []
    for name in names:
        scores = rows.filter(regex=rf"^{name} score_").to_numpy(np.float64)
        inputs.append((scores - scores.mean(axis=1, keepdims=True))[:, 1:])
    odds = pd.DataFrame(np.concatenate(inputs, axis=1), index=rows.index)
    by = odds.groupby([rows[column] for column in alike])
    spread = by.transform("std", ddof=0)
    return ((odds - by.transform("mean")) / spread.where(spread > 0, 1)).to_numpy()
