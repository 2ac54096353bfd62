"""Re-identification: decide whether two sets of updates ("sides") are from the same speaker.

The classes of the attack are the shadow speakers. It scores how similar an update is to each
shadow speaker. The more the scores of two sides agree, the more likely one speaker sent both.
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
    """Choose, for each draw, two disjoint sides of a client's k updates.

    The parameters are those of `attacks.adversary.leaked_updates.choose_leaks`. If the client sent
    too few updates, each side gets half of them. If it sent fewer than two, there are no draws.

    Returns
    -------
    dict of str to ndarray of bool, shape (2 draws, k)
        By number of leaked updates per side; rows 2 i and 2 i + 1 are the sides of draw i.
    """
    sent = len(rounds)
    by_round = rounds.argsort(kind="stable")
    chosen = {}
    for leaked in map(str, config.leaked_updates):
        count = sent // 2 if leaked == "all" else min(int(leaked), sent // 2)
        rng = numpy_stream(seed, "sides", leaked, *name)
        kept = {"earliest": by_round[: 2 * count], "latest": by_round[sent - 2 * count :]}.get(
            config.selection, by_round
        )
        orders = [rng.permutation(kept) for _ in range(config.draws if count else 0)]
        chosen[leaked] = np.zeros((2 * len(orders), sent), dtype=bool)
        for draw, order in enumerate(orders):
            chosen[leaked][2 * draw, order[:count]] = True
            chosen[leaked][2 * draw + 1, order[count : 2 * count]] = True
    return chosen


def score_pairs(scores: pd.DataFrame) -> pd.DataFrame:
    """Score every pair of sides by the cosine of their centred scores.

    Parameters
    ----------
    scores : DataFrame
        ``federation``, ``client``, ``leaked``, ``draw`` (the row in `choose_sides`), ``score_*``.

    Returns
    -------
    DataFrame
        ``federation``, ``leaked``, ``draw``, ``client_a``, ``client_b`` and ``score``.
    """
    centred = scores.filter(like="score_").to_numpy(np.float64, copy=True)
    centred -= centred.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + TINY
    parts = []
    rows = np.arange(len(centred))
    sides = scores.assign(side=scores["draw"] % 2, draw=scores["draw"] // 2, row=rows)
    for (federation, leaked, draw), drawn in sides.groupby(
        ["federation", "leaked", "draw"], sort=False
    ):
        (_, a), (_, b) = drawn.groupby("side")
        first, second = np.repeat(a["client"], len(b)), np.tile(b["client"], len(a))
        score = np.ravel(centred[a["row"]] @ centred[b["row"]].T)
        about = {"federation": federation, "leaked": leaked, "draw": draw}
        pairs = {"client_a": first, "client_b": second, "score": score}
        parts.append(pd.DataFrame(about | pairs))
    return pd.concat(parts, ignore_index=True)
