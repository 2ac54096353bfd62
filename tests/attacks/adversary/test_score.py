"""Scores of victims, and of shadow clients by attacks fitted without their group."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedser.attacks.adversary.fit import FittedAttack, ShadowFederation
from fedser.attacks.adversary.prepare import LayerAttacks
from fedser.attacks.adversary.score import join_scores, score_private, score_shadow
from fedser.attacks.adversary.tap import View
from fedser.client.app import app as client_app
from fedser.conf.schema import AdversaryConfig
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import Transcript
from tests.examples import federation

VIEW = View("attributed", ["dense.0.weight", "dense.0.bias"], True)
CONFIG = AdversaryConfig(leaked_updates=[1, 2, "all"], draws=3)
GROUPS = np.array([7, 9, 7, 9, 7, 9])


class Toy:
    """Reads a sum of an update; its second score is the number of the toy."""

    name = "toy"
    max_examples = None

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, examples):
        raise AssertionError("scoring must not fit an attack")

    def features(self, gradients):
        return np.abs(gradients["dense.0.weight"]).sum(axis=(1, 2))[:, None]

    def score(self, features):
        return np.concatenate([features, np.full_like(features, self.number)], axis=1)


TOYS = FittedAttack(Toy(), {7: Toy(7), 9: Toy(9)})
ATTACKS = LayerAttacks("first", VIEW, [TOYS], GROUPS, [], [])


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A federation of eight clients that ran, each client in two or three of six rounds."""
    folder = tmp_path_factory.mktemp("private")
    made = federation(folder / "private-fold0", test=False, rounds=6)
    federate(LocalGrid(client_app), made, folder, "cpu")
    return made


def sent_by(path: Path) -> dict[int, np.ndarray]:
    """Return the absolute sums of the first weight's pseudo-gradients, by client."""
    (chunk,) = Transcript(path)
    sums = np.abs(chunk.arrays["dense.0.weight"] / (3 * 5e-3)).sum(axis=(1, 2))
    return {client: sums[chunk.client == client] for client in np.unique(chunk.client).tolist()}


def draws_by_client(frame: pd.DataFrame) -> dict[tuple[int, str], int]:
    return frame.groupby(["client", "leaked"])["draw"].nunique().to_dict()


def expected_draws(who, draws: int) -> dict[tuple[int, str], int]:
    return {
        (c, leaked): 1 if leaked == "all" else draws for c in who for leaked in ["1", "2", "all"]
    }


def test_every_victim_has_scores_for_each_number_of_updates(private):
    found = score_private(private.folder, ATTACKS, CONFIG, seed=0)
    assert found.shadow == {} and list(found.victims) == ["toy"]
    rows, sent = found.victims["toy"], sent_by(private.folder)
    assert draws_by_client(rows) == expected_draws(sent, 3)
    assert set(rows["federation"]) == {"private-fold0"} and set(rows["score_1"]) == {0}
    for row in rows.itertuples():
        own = sent[row.client]
        if row.leaked == "all":
            assert row.score_0 == pytest.approx(own.mean(), rel=1e-4)
        elif row.leaked == "1":
            assert np.isclose(own, row.score_0, rtol=1e-4).any()
        else:
            pairs = [np.mean([a, b]) for i, a in enumerate(own) for b in own[:i]] or [own[0]]
            assert np.isclose(pairs, row.score_0, rtol=1e-4).any()


def test_re_identification_scores_two_sides_of_each_draw(private):
    config = AdversaryConfig(attribute="speaker", leaked_updates=[1, "all"], draws=3)
    rows = score_private(private.folder, ATTACKS, config, seed=0).victims["toy"]
    several = [client for client, sent in sent_by(private.folder).items() if len(sent) > 1]
    assert draws_by_client(rows) == {(c, leaked): 6 for c in several for leaked in ("1", "all")}


def test_shadow_clients_are_scored_without_their_group(private):
    speakers = np.array([5, 4, 3, 2, 1, 0, 5, 4])
    labels = speakers % 2
    shadow = ShadowFederation(private.folder, labels, speakers)
    found = score_shadow(shadow, ATTACKS, CONFIG, seed=0)
    assert found.victims == {}
    rows, sent = found.shadow["toy"], sent_by(private.folder)
    assert draws_by_client(rows) == expected_draws(sent, 3)
    of = speakers[rows["client"]]
    np.testing.assert_array_equal(rows["score_1"], GROUPS[of])
    np.testing.assert_array_equal(rows["label"], labels[rows["client"]])
    every = rows[rows["leaked"] == "all"].set_index("client")["score_0"]
    assert every.to_dict() == pytest.approx({c: s.mean() for c, s in sent.items()}, rel=1e-4)


def test_scores_of_several_federations_are_joined_by_attack():
    one, two = (pd.DataFrame({"client": [c], "score_0": [0.5]}) for c in (1, 2))
    found = join_scores([{"a": one}, {"b": one}, {"a": two}, {}])
    assert list(found) == ["a", "b"]
    assert found["a"]["client"].tolist() == [1, 2] and found["a"].index.tolist() == [0, 1]
    assert found["b"]["client"].tolist() == [1]
