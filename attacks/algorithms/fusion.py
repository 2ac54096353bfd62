"""Fusion: combine the scores of several attacks, with weights fitted to shadow speakers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from fedser.attacks.algorithms.base import ScoreAttack, score_columns
from fedser.attacks.algorithms.linear import class_scores
from fedser.common.arrays import Floats64

KEYS = ["federation", "client", "leaked", "draw"]


@dataclass
class Fusion(ScoreAttack):
    """Stacking: a logistic regression on the scores of other attacks.

    It is fitted to scores of shadow speakers by attacks that were fitted without them. There is
    one regression per number of leaked updates, because the best attack depends on how much has
    leaked. Noise and unknown corpora shift and scale all scores of an attack alike. So scores are
    first z-scored: those of victims within a federation, and those of shadow speakers within the
    speakers that the same fitted attack scored.

    Attributes
    ----------
    of : list of str
        Attacks to fuse. They must be among the attacks of the run.
    inverse_regularisation : float
        ``C`` of `sklearn.linear_model.LogisticRegression`.
    """

    name: ClassVar[str] = "fusion"
    of: list[str]
    inverse_regularisation: float

    def fuse(
        self, shadow: Mapping[str, pd.DataFrame], victims: Mapping[str, pd.DataFrame]
    ) -> pd.DataFrame:
        """Fit to the scores of shadow clients and score the victims; see `ScoreAttack.fuse`."""
        from sklearn.linear_model import LogisticRegression  # slow to import, only for fitting

        known, unknown = _side_by_side(shadow, ["label", "group"]), _side_by_side(victims, [])
        parts = []
        for leaked, rows in unknown.groupby("leaked", sort=False):
            fit_to = known[known["leaked"] == leaked]
            model = LogisticRegression(C=self.inverse_regularisation, class_weight="balanced")
            model.fit(_inputs(fit_to, ["federation", "group"]), fit_to["label"])
            scores = class_scores(model.decision_function(_inputs(rows, ["federation"])))
            parts.append(rows[KEYS].assign(**score_columns(scores)))
        return pd.concat(parts, ignore_index=True)


def _side_by_side(scores: Mapping[str, pd.DataFrame], more: list[str]) -> pd.DataFrame:
    """Join the scores of several attacks by client and draw; columns begin with the attack."""
    frames = [
        frame.set_index([*KEYS, *more]).add_prefix(f"{name} ") for name, frame in scores.items()
    ]
    return pd.concat(frames, axis=1, join="inner").reset_index()


def _inputs(rows: pd.DataFrame, within: list[str]) -> Floats64:
    """Return each attack's log-odds, z-scored within rows that agree in the columns `within`."""
    names = dict.fromkeys(c.rsplit(" score_", 1)[0] for c in map(str, rows) if " score_" in c)
    inputs = []
    for name in names:
        scores = rows.filter(regex=rf"^{name} score_").to_numpy(np.float64)
        inputs.append((scores - scores.mean(axis=1, keepdims=True))[:, 1:])
    odds = pd.DataFrame(np.concatenate(inputs, axis=1), index=rows.index)
    by = odds.groupby([rows[column] for column in within])
    spread = by.transform("std", ddof=0)
    return ((odds - by.transform("mean")) / spread.where(spread > 0, 1)).to_numpy()
