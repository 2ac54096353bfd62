"""Which of a client's updates leak, and how what they say is put together."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedser.attacks.adversary.tap import SeenUpdates
from fedser.attacks.algorithms.base import Attack, score_columns
from fedser.common.arrays import Bools, Floats, Ints
from fedser.common.seeds import numpy_stream
from fedser.conf.schema import AdversaryConfig


def choose_leaks(
    rounds: Ints, config: AdversaryConfig, seed: int, *name: str | int
) -> dict[str, Bools]:
    """Choose which of a client's k updates leak, once a draw.

    A client that sent fewer than are to leak gives all it sent.

    Parameters
    ----------
    rounds : ndarray of int64, shape (k,)
        When each was sent.
    name : str or int
        Name the random stream, together with `seed`.

    Returns
    -------
    dict of str to ndarray of bool, shape (draws, k)
        By number of leaked updates. Of the earliest, the latest and all there is one draw.
    """
    by_round, many = rounds.argsort(kind="stable"), len(rounds)
    chosen = {}
    for leaked in map(str, config.leaked_updates):
        count = many if leaked == "all" else min(int(leaked), many)
        if leaked == "all" or config.selection == "earliest":
            order = by_round[None, :count]
        elif config.selection == "latest":
            order = by_round[None, many - count :]
        else:
            rng = numpy_stream(seed, "leaked", leaked, *name)
            order = rng.random((config.draws, many)).argsort(axis=1)[:, :count]
        chosen[leaked] = np.zeros((len(order), many), dtype=bool)
        np.put_along_axis(chosen[leaked], order, True, axis=1)
    return chosen


def score_leaks(
    attack: Attack, seen: SeenUpdates, leaks: Mapping[str, Bools], combination: str
) -> pd.DataFrame:
    """Score each draw of a client's leaked updates.

    Parameters
    ----------
    combination : str
        What is put together: the ``updates`` (their mean is attacked, as in the 2022 study),
        their ``statistics`` (the mean of the numbers that the attack reads), or the
        ``log_odds`` (their sum, as if updates were independent evidence).

    Returns
    -------
    DataFrame
        ``client``, ``leaked``, ``draw`` and ``score_0`` to ``score_{C-1}``.
    """
    if combination != "updates":
        numbers = read_update(attack, seen.gradients, combination)
        return score_numbers(attack, seen.client, numbers, leaks, combination)
    # A mean at a time: together they are many times what was sent.
    means = [
        attack.features({n: np.tensordot(w[None], a, 1) for n, a in seen.gradients.items()})
        for w in _weights(leaks)
    ]
    return _rows(seen.client, attack.score(np.concatenate(means)), leaks)


def read_update(attack: Attack, gradients: Mapping[str, Floats], combination: str) -> Floats:
    """Return what is put together of k updates, unless it is these: numbers or scores (k, p)."""
    features = attack.features(gradients)
    return attack.score(features) if combination == "log_odds" else features


def score_numbers(
    attack: Attack, client: int, numbers: Floats, leaks: Mapping[str, Bools], combination: str
) -> pd.DataFrame:
    """Score each draw by what `read_update` returned of a client's updates; as `score_leaks`."""
    if combination == "log_odds":
        return combine_scores(client, numbers, leaks, combination)
    means = _weights(leaks) @ numbers.astype(np.float32, copy=False)
    return _rows(client, attack.score(means), leaks)


def combine_scores(
    client: int, scores: Floats, leaks: Mapping[str, Bools], combination: str
) -> pd.DataFrame:
    """Put the scores (k, C) of single updates together over each draw; returns as `score_leaks`.

    They are summed as ``log_odds``. Else their mean stands for the score of the mean, which it
    is for a linear attack.
    """
    masks = np.concatenate(list(leaks.values())).astype(np.float32)
    if combination != "log_odds":
        masks /= masks.sum(axis=1, keepdims=True)
    return _rows(client, masks @ scores, leaks)


def _weights(leaks: Mapping[str, Bools]) -> Floats:
    """Return the weight of each update in the mean over each draw, (draws, k)."""
    masks = np.concatenate(list(leaks.values()))
    return np.asarray(masks / masks.sum(axis=1, keepdims=True), dtype=np.float32)


def _rows(client: int, scores: Floats, leaks: Mapping[str, Bools]) -> pd.DataFrame:
    drawn = [(leaked, draw) for leaked, mask in leaks.items() for draw in range(len(mask))]
    return pd.DataFrame(drawn, columns=["leaked", "draw"]).assign(
        client=client, **score_columns(scores)
    )
