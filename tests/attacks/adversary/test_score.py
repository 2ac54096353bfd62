"""Scoring victims, and the adversary's own speakers with attacks that never met them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedser.attacks.adversary import score as judging
from fedser.attacks.adversary.fit import FittedAttack, ShadowFederation, View
from fedser.attacks.adversary.own_speakers import make_shadow_clients, simulate_rounds
from fedser.attacks.adversary.score import (
    join_scores,
    score_at_snapshots,
    score_private,
    score_shadow,
)
from fedser.attacks.adversary.snapshot import CorrelationDiscriminant, Snapshot
from fedser.client.app import app as client_app
from fedser.conf.schema import AdversaryConfig
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import Transcript
from tests.examples import clients, corpus, federation

VIEW = View("attributed", ["dense.0.weight", "dense.0.bias"], True)
CONFIG = AdversaryConfig(leaked_updates=[1, 2, "all"], draws=3)
GROUPS = np.array([7, 9, 7, 9, 7, 9])


class Toy:
    """Reads a sum off an update; its second score tells which toy it was."""

    name = "toy"
    max_examples = None

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, examples):
        raise AssertionError("nobody judges and learns")

    def features(self, gradients):
        return np.abs(gradients["dense.0.weight"]).sum(axis=(1, 2))[:, None]

    def score(self, features):
        return np.concatenate([features, np.full_like(features, self.number)], axis=1)


TOYS = FittedAttack(Toy(), {7: Toy(7), 9: Toy(9)})


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A federation of eight that ran, each client in two or three of six rounds."""
    folder = tmp_path_factory.mktemp("played")
    made = federation(folder / "private-fold0", test=False, rounds=6)
    federate(LocalGrid(client_app), made, folder, "cpu")
    return made


@pytest.fixture(scope="module")
def cast():
    whole = clients(corpus("shadow", speakers=6, seed=1))
    return make_shadow_clients(whole, np.arange(6) // 2 % 2, np.arange(6), 10, seed=0)


def sent_by(path: Path) -> dict[int, np.ndarray]:
    """Pseudo-gradients' absolute sums of the first weight, by client."""
    (chunk,) = Transcript(path)
    sums = np.abs(chunk.arrays["dense.0.weight"] / (3 * 5e-3)).sum(axis=(1, 2))
    return {client: sums[chunk.client == client] for client in np.unique(chunk.client).tolist()}


def draws_by_client(frame: pd.DataFrame) -> dict[tuple[int, str], int]:
    return frame.groupby(["client", "leaked"])["draw"].nunique().to_dict()


def expected_draws(who, draws: int) -> dict[tuple[int, str], int]:
    return {
        (c, leaked): 1 if leaked == "all" else draws for c in who for leaked in ["1", "2", "all"]
    }


def test_every_victim_is_scored_for_every_number_of_leaked_updates(played):
    found = score_private(played.folder, [TOYS], VIEW, CONFIG, seed=0)
    assert found.rehearsed == {} and list(found.victims) == ["toy"]
    rows, sent = found.victims["toy"], sent_by(played.folder)
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


def test_a_speaker_is_recognised_by_two_sides_of_updates(played):
    config = AdversaryConfig(attribute="speaker", leaked_updates=[1, "all"], draws=3)
    rows = score_private(played.folder, [TOYS], VIEW, config, seed=0).victims["toy"]
    several = [client for client, sent in sent_by(played.folder).items() if len(sent) > 1]
    assert draws_by_client(rows) == {(c, leaked): 6 for c in several for leaked in ("1", "all")}


def test_shadow_clients_are_scored_by_the_attack_that_never_met_the_speaker(played):
    speakers = np.array([5, 4, 3, 2, 1, 0, 5, 4])
    labels = speakers % 2
    shadow = ShadowFederation(played.folder, labels, speakers)
    found = score_shadow(shadow, [TOYS], GROUPS, VIEW, CONFIG, seed=0)
    assert found.victims == {}
    rows, sent = found.rehearsed["toy"], sent_by(played.folder)
    assert draws_by_client(rows) == expected_draws(sent, 3)
    of = speakers[rows["client"]]
    np.testing.assert_array_equal(rows["score_1"], GROUPS[of])
    np.testing.assert_array_equal(rows["label"], labels[rows["client"]])
    every = rows[rows["leaked"] == "all"].set_index("client")["score_0"]
    assert every.to_dict() == pytest.approx({c: s.mean() for c, s in sent.items()}, rel=1e-4)


def at_snapshots(played, cast, groups=GROUPS, fitted=(TOYS,), asked=6, config=CONFIG):
    settings = Snapshot(components=2, asked=asked, draws=4)
    return score_at_snapshots(
        played.folder, played.protocol, settings, cast, groups, fitted, VIEW, config
    )


def test_the_snapshot_attack_scores_victims_and_rehearses_the_cast(played, cast):
    found = at_snapshots(played, cast)
    assert list(found.victims) == ["snapshot"]
    assert set(found.rehearsed) == {"snapshot", "toy"}
    victims = found.victims["snapshot"]
    assert draws_by_client(victims) == expected_draws(sent_by(played.folder), 3)
    for name, frame in [("", victims), *found.rehearsed.items()]:
        assert np.isfinite(frame[["score_0", "score_1"]]).to_numpy().all()
        assert set(frame["federation"]) == {"private-fold0"}
        if name:
            assert draws_by_client(frame) == expected_draws(range(6), 4)
            np.testing.assert_array_equal(frame["label"], cast.labels[frame["client"]])
    probabilities = np.exp(victims[["score_0", "score_1"]].to_numpy())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_rehearsed_scores_are_of_what_the_cast_sent_by_attacks_that_never_met_them(played, cast):
    rows = at_snapshots(played, cast).rehearsed["toy"]
    np.testing.assert_array_equal(rows["score_1"], GROUPS[rows["client"]])
    sent = [
        np.abs(scene.sent["dense.0.weight"]).sum(axis=(1, 2))
        for scene in simulate_rounds(Transcript(played.folder), played.protocol, cast, asked=6)
    ]
    every = rows[rows["leaked"] == "all"].sort_values("client")["score_0"]
    np.testing.assert_allclose(every, np.mean(sent, axis=0), rtol=1e-4)


def test_the_cast_is_rehearsed_by_resemblance_to_the_other_groups(played, cast, monkeypatch):
    class Telling(CorrelationDiscriminant):
        def score(self, estimates, without=None):
            return np.full((len(estimates), 2), -1 if without is None else without)

    monkeypatch.setattr(judging, "CorrelationDiscriminant", Telling)
    found = at_snapshots(played, cast)
    own = found.rehearsed["snapshot"]
    np.testing.assert_array_equal(own["score_0"], GROUPS[own["client"]])
    assert set(found.victims["snapshot"]["score_0"]) == {-1}


def test_without_groups_nothing_is_rehearsed(played, cast):
    nobody = np.zeros(0, dtype=np.int64)
    found = at_snapshots(played, cast, groups=nobody, fitted=())
    assert found.rehearsed == {}
    expected = at_snapshots(played, cast).victims["snapshot"]
    pd.testing.assert_frame_equal(found.victims["snapshot"], expected, rtol=1e-3)


def test_those_of_the_cast_who_were_never_asked_are_not_scored(played, cast):
    found = at_snapshots(played, cast, asked=1)
    scenes = simulate_rounds(Transcript(played.folder), played.protocol, cast, asked=1)
    asked = {int(scene.cast[0]) for scene in scenes}
    assert set(found.rehearsed["toy"]["client"]) == set(found.rehearsed["snapshot"]["client"])
    assert set(found.rehearsed["toy"]["client"]) == asked != set(range(6))
    assert list(found.victims["snapshot"].filter(like="score_")) == ["score_0", "score_1"]


def test_scores_of_several_federations_are_put_together_by_attack():
    one, two = (pd.DataFrame({"client": [c], "score_0": [0.5]}) for c in (1, 2))
    found = join_scores([{"a": one}, {"b": one}, {"a": two}, {}])
    assert list(found) == ["a", "b"]
    assert found["a"]["client"].tolist() == [1, 2] and found["a"].index.tolist() == [0, 1]
    assert found["b"]["client"].tolist() == [1]
