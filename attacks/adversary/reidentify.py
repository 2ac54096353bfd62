"""Re-identification: whether two sides of updates resemble the same of the known speakers.

An attack that was taught the adversary's own speakers says of any update how much it resembles
each of them. Two sides are of one speaker the more, the more these scores agree.
"""

import numpy as np
import pandas as pd

from fedser.common.arrays import Bools, Ints
from fedser.common.seeds import numpy_stream
from fedser.conf.schema import AdversaryConfig

TINY = 1e-12


def choose_sides(
    rounds: Ints, config: AdversaryConfig, seed: int, *name: str | int
) -> dict[str, Bools]:
    """Choose two sides of a client's k updates that share none, once a draw.

    Parameters are those of `attacks.adversary.leaked_updates.choose_leaks`. A client that sent
    too few gives half of them to each side, and one that sent less than two nothing.

    Returns
    -------
    dict of str to ndarray of bool, shape (2 draws, k)
        By number of leaked updates a side; rows 2 i and 2 i + 1 are the sides of draw i.
    """
    many = len(rounds)
    by_round = rounds.argsort(kind="stable")
    chosen = {}
    for leaked in map(str, config.leaked_updates):
        count = many // 2 if leaked == "all" else min(int(leaked), many // 2)
        rng = numpy_stream(seed, "sides", leaked, *name)
        kept = {"earliest": by_round[: 2 * count], "latest": by_round[many - 2 * count :]}.get(
            config.selection, by_round
        )
        orders = [rng.permutation(kept) for _ in range(config.draws if count else 0)]
        chosen[leaked] = np.zeros((2 * len(orders), many), dtype=bool)
        for draw, order in enumerate(orders):
            chosen[leaked][2 * draw, order[:count]] = True
            chosen[leaked][2 * draw + 1, order[count : 2 * count]] = True
    return chosen


def score_pairs(scores: pd.DataFrame) -> pd.DataFrame:
    """Score every pair of sides by the cosine of their centred scores.

    Parameters
    ----------
    scores : DataFrame
        ``federation``, ``client``, ``leaked``, ``draw`` as rows of `choose_sides`, ``score_*``.

    Returns
    -------
    DataFrame
        ``federation``, ``leaked``, ``draw``, ``client_a``, ``client_b`` and ``score``.
    """
    of = scores.filter(like="score_").to_numpy(np.float64, copy=True)
    of -= of.mean(axis=1, keepdims=True)
    of /= np.linalg.norm(of, axis=1, keepdims=True) + TINY
    parts = []
    sides = scores.assign(side=scores["draw"] % 2, draw=scores["draw"] // 2, row=np.arange(len(of)))
    for (federation, leaked, draw), drawn in sides.groupby(
        ["federation", "leaked", "draw"], sort=False
    ):
        (_, a), (_, b) = drawn.groupby("side")
        first, second = np.repeat(a["client"], len(b)), np.tile(b["client"], len(a))
        score = np.ravel(of[a["row"]] @ of[b["row"]].T)
        about = {"federation": federation, "leaked": leaked, "draw": draw}
        pairs = {"client_a": first, "client_b": second, "score": score}
        parts.append(pd.DataFrame(about | pairs))
    return pd.concat(parts, ignore_index=True)
