"""Which updates of a client leak, and how the leaked updates of one draw are combined."""

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
    """Choose, for each draw, which of a client's k updates leak.

    If the client sent fewer updates than leak, all its updates leak.

    Parameters
    ----------
    rounds : ndarray of int64, shape (k,)
        Round of each update.
    name : str or int
        Name of the random stream, together with `seed`.

    Returns
    -------
    dict of str to ndarray of bool, shape (draws, k)
        By number of leaked updates. There is one draw of the earliest, the latest, and all updates.
    """
    by_round, sent = rounds.argsort(kind="stable"), len(rounds)
    chosen = {}
    for leaked in map(str, config.leaked_updates):
        count = sent if leaked == "all" else min(int(leaked), sent)
        if leaked == "all" or config.selection == "earliest":
            order = by_round[None, :count]
        elif config.selection == "latest":
            order = by_round[None, sent - count :]
        else:
            rng = numpy_stream(seed, "leaked", leaked, *name)
            order = rng.random((config.draws, sent)).argsort(axis=1)[:, :count]
        chosen[leaked] = np.zeros((len(order), sent), dtype=bool)
        np.put_along_axis(chosen[leaked], order, True, axis=1)
    return chosen


def score_leaks(
    attack: Attack, seen: SeenUpdates, leaks: Mapping[str, Bools], combination: str
) -> pd.DataFrame:
    """Score each draw of a client's leaked updates.

    Parameters
    ----------
    combination : str
        ``updates``: attack the mean of the updates, as in the 2022 study. ``statistics``: score
        the mean of the attack's features. ``log_odds``: add the log-odds, as if the updates were
        independent evidence.

    Returns
    -------
    DataFrame
        ``client``, ``leaked``, ``draw`` and ``score_0`` to ``score_{C-1}``.
    """
    if combination != "updates":
        values = read_values(attack, seen.gradients, combination)
        return score_values(attack, seen.client, values, leaks, combination)
    # One mean at a time, because all means together are many times as large as the updates.
    means = [
        attack.features({n: np.tensordot(w[None], a, 1) for n, a in seen.gradients.items()})
        for w in _weights(leaks)
    ]
    return _rows(seen.client, attack.score(np.concatenate(means)), leaks)


def read_values(attack: Attack, gradients: Mapping[str, Floats], combination: str) -> Floats:
    """Return the values to combine of k updates, (k, p): scores for `log_odds`, else features."""
    features = attack.features(gradients)
    return attack.score(features) if combination == "log_odds" else features


def score_values(
    attack: Attack, client: int, values: Floats, leaks: Mapping[str, Bools], combination: str
) -> pd.DataFrame:
    """Score each draw of a client by the values from `read_values`; returns as `score_leaks`."""
    if combination == "log_odds":
        return combine_scores(client, values, leaks, combination)
    means = _weights(leaks) @ values.astype(np.float32, copy=False)
    return _rows(client, attack.score(means), leaks)


def combine_scores(
    client: int, scores: Floats, leaks: Mapping[str, Bools], combination: str
) -> pd.DataFrame:
    """Combine the scores (k, C) of single updates over each draw; returns as `score_leaks`.

    With ``log_odds`` the scores are added. Otherwise their mean replaces the score of the mean. For
    a linear attack the two are equal.
    """
    masks = np.concatenate(list(leaks.values())).astype(np.float32)
    if combination != "log_odds":
        masks /= masks.sum(axis=1, keepdims=True)
    return _rows(client, masks @ scores, leaks)


def _weights(leaks: Mapping[str, Bools]) -> Floats:
    """Return the weight of each update in the mean of each draw, (draws, k)."""
    masks = np.concatenate(list(leaks.values()))
    return np.asarray(masks / masks.sum(axis=1, keepdims=True), dtype=np.float32)


def _rows(client: int, scores: Floats, leaks: Mapping[str, Bools]) -> pd.DataFrame:
    drawn = [(leaked, draw) for leaked, mask in leaks.items() for draw in range(len(mask))]
    return pd.DataFrame(drawn, columns=["leaked", "draw"]).assign(
        client=client, **score_columns(scores)
    )
