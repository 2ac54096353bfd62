"""Scores by attacks that train shadow clients at the victims' global models."""

import numpy as np
import pandas as pd
import pytest

from fedser.attacks.adversary.own_speakers import make_shadow_clients, simulate_rounds
from fedser.attacks.adversary.prepare import LayerAttacks
from fedser.attacks.adversary.score_on_models import score_on_models
from fedser.attacks.algorithms import snapshot
from fedser.attacks.algorithms.discriminant import CorrelationDiscriminant
from fedser.attacks.algorithms.snapshot import Snapshot
from fedser.server.transcript.transcript import Transcript
from tests.attacks.adversary import test_score
from tests.attacks.adversary.test_score import (
    CONFIG,
    GROUPS,
    TOYS,
    VIEW,
    draws_by_client,
    expected_draws,
    sent_by,
)
from tests.examples import clients, corpus

private = test_score.private


@pytest.fixture(scope="module")
def shadow_clients():
    whole = clients(corpus("shadow", speakers=6, seed=1))
    return make_shadow_clients(whole, np.arange(6) // 2 % 2, np.arange(6), 10, seed=0)


def score(private, shadow_clients, groups=GROUPS, fitted=(TOYS,), asked=6):
    attack = Snapshot(components=2, asked=asked, draws=4)
    attacks = LayerAttacks("first", VIEW, list(fitted), groups, [attack], [])
    return score_on_models(
        private.folder, attacks, attack, shadow_clients, private.protocol, CONFIG
    )


def simulate(private, shadow_clients, asked):
    return simulate_rounds(Transcript(private.folder), private.protocol, shadow_clients, asked)


def test_victims_and_shadow_clients_are_scored(private, shadow_clients):
    found = score(private, shadow_clients)
    assert list(found.victims) == ["snapshot"]
    assert set(found.shadow) == {"snapshot", "toy"}
    victims = found.victims["snapshot"]
    assert draws_by_client(victims) == expected_draws(sent_by(private.folder), 3)
    for name, frame in [("", victims), *found.shadow.items()]:
        assert np.isfinite(frame[["score_0", "score_1"]]).to_numpy().all()
        assert set(frame["federation"]) == {"private-fold0"}
        if name:
            assert draws_by_client(frame) == expected_draws(range(6), 4)
            np.testing.assert_array_equal(frame["label"], shadow_clients.labels[frame["client"]])
    probabilities = np.exp(victims[["score_0", "score_1"]].to_numpy())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_sent_updates_are_scored_without_their_group(private, shadow_clients):
    rows = score(private, shadow_clients).shadow["toy"]
    np.testing.assert_array_equal(rows["score_1"], GROUPS[rows["client"]])
    sent = [
        np.abs(one_round.sent["dense.0.weight"]).sum(axis=(1, 2))
        for one_round in simulate_rounds(
            Transcript(private.folder), private.protocol, shadow_clients, asked=6
        )
    ]
    every = rows[rows["leaked"] == "all"].sort_values("client")["score_0"]
    np.testing.assert_allclose(every, np.mean(sent, axis=0), rtol=1e-4)


def test_snapshot_scores_shadow_clients_without_their_group(private, shadow_clients, monkeypatch):
    class GroupDiscriminant(CorrelationDiscriminant):
        def score(self, estimates, without=None):
            return np.full((len(estimates), 2), -1 if without is None else without)

    monkeypatch.setattr(snapshot, "CorrelationDiscriminant", GroupDiscriminant)
    found = score(private, shadow_clients)
    own = found.shadow["snapshot"]
    np.testing.assert_array_equal(own["score_0"], GROUPS[own["client"]])
    assert set(found.victims["snapshot"]["score_0"]) == {-1}


def test_without_groups_shadow_clients_are_not_scored(private, shadow_clients):
    no_groups = np.zeros(0, dtype=np.int64)
    found = score(private, shadow_clients, groups=no_groups, fitted=())
    assert found.shadow == {}
    expected = score(private, shadow_clients).victims["snapshot"]
    pd.testing.assert_frame_equal(found.victims["snapshot"], expected, rtol=1e-3)


def test_shadow_clients_that_were_never_drawn_are_not_scored(private, shadow_clients):
    found = score(private, shadow_clients, asked=1)
    simulated = simulate_rounds(
        Transcript(private.folder), private.protocol, shadow_clients, asked=1
    )
    asked = {int(one_round.clients[0]) for one_round in simulated}
    assert set(found.shadow["toy"]["client"]) == set(found.shadow["snapshot"]["client"])
    assert set(found.shadow["toy"]["client"]) == asked != set(range(6))
    assert list(found.victims["snapshot"].filter(like="score_")) == ["score_0", "score_1"]


def test_only_the_first_attack_gives_the_scores_of_the_others(private, shadow_clients):
    first, second = (Snapshot(components=2, asked=6, draws=4) for _ in range(2))
    second.name = "second"
    attacks = LayerAttacks("first", VIEW, [TOYS], GROUPS, [first, second], [])
    found = score_on_models(
        private.folder, attacks, second, shadow_clients, private.protocol, CONFIG
    )
    assert list(found.shadow) == list(found.victims) == ["second"]
