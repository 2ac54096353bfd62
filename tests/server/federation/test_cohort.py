from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from fedser.common.seeds import SystemEntropy
from fedser.server.federation.cohort import Sampler, cohort_sampler
from tests.examples import ADAPTIVE, CENTRAL, DP_SGD, LAYERED, LOCAL, MATRIX, UDP

ROUNDS = 3000
UNITS = [str(client) for client in range(20)]


def fixed(clients, rate, seed=0, federation="f"):
    return Sampler(clients, rate, seed, federation)


def poisson(clients, rate, seed=0, federation="f"):
    return Sampler(clients, rate, seed, federation, poisson=True, hidden=True)


def presence(sampler, rounds=ROUNDS):
    """Return the members of each round, shape (rounds, N)."""
    drawn = np.zeros((rounds, sampler.num_clients), bool)
    for row in range(rounds):
        drawn[row, sampler(row + 1)] = True
    return drawn


@pytest.mark.parametrize(
    ("clients", "fraction", "size"),
    [(45, 0.1, 4), (3, 0.1, 1), (7, 1.0, 7), (1, 0.5, 1), (10, 0.01, 1)],
)
def test_size_is_fixed_and_at_least_one(clients, fraction, size):
    sampler = fixed(clients, fraction)
    for server_round in range(1, 30):
        cohort = sampler(server_round)
        assert len(cohort) == len(set(cohort)) == size
        assert cohort == sorted(cohort) and set(cohort) <= set(range(clients))


@pytest.mark.parametrize("kind", [fixed, poisson])
def test_cohorts_depend_only_on_seed_federation_and_round(kind):
    drawn = kind(100, 0.2, 0, "a")(1)
    assert drawn == kind(100, 0.2, 0, "a")(1)
    for other in (kind(100, 0.2, 1, "a")(1), kind(100, 0.2, 0, "b")(1), kind(100, 0.2, 0, "a")(2)):
        assert drawn != other


def test_every_client_is_equally_likely():
    counts = presence(fixed(20, 0.25), 4000).sum(axis=0)
    # hypergeometric: mean 1000, standard deviation sqrt(4000 * 0.25 * 0.75) = 27
    assert np.abs(counts - 1000).max() < 4 * 27


@pytest.mark.parametrize(
    ("clients", "rate", "seed"), [(12, 0.25, 0), (12, 0.25, None), (5, 0.02, 0), (40, 0.7, 0)]
)
def test_poisson_cohorts_hold_each_client_independently(clients, rate, seed):
    drawn = presence(poisson(clients, rate, seed))
    # sizes are binomial only if clients and draws are independent
    sizes = drawn.sum(axis=1)
    low, high = binom.ppf([0.02, 0.98], clients, rate).astype(int)
    bins = np.arange(low, high + 2)
    observed = np.bincount(np.clip(sizes, low, high) - low, minlength=len(bins) - 1)
    expected = np.diff(binom.cdf(bins - 1, clients, rate))
    expected[0] += binom.cdf(low - 1, clients, rate)
    expected[-1] += binom.sf(high, clients, rate)
    assert chisquare(observed, ROUNDS * expected).pvalue > 1e-6
    variance = clients * rate * (1 - rate)
    assert abs(sizes.mean() - clients * rate) < 5 * np.sqrt(variance / ROUNDS)
    assert sizes.var() == pytest.approx(variance, rel=0.2)
    # clients are equally likely, and clients and rounds are independent
    frequency = drawn.mean(axis=0)
    assert np.abs(frequency - rate).max() < 5.5 * np.sqrt(rate * (1 - rate) / ROUNDS)
    between_clients = np.corrcoef(drawn.T)[np.triu_indices(clients, 1)]
    assert np.abs(between_clients).max() < 5.5 / np.sqrt(ROUNDS)
    for client in range(min(clients, 5)):
        after = np.corrcoef(drawn[:-1, client], drawn[1:, client])[0, 1]
        assert abs(after) < 5.5 / np.sqrt(ROUNDS)


def test_a_poisson_cohort_may_be_empty_or_hold_all():
    sizes = presence(poisson(4, 0.3)).sum(axis=1)
    assert sizes.min() == 0 and sizes.max() == 4
    assert all(poisson(4, 1.0)(r) == [0, 1, 2, 3] for r in range(20))
    cohort = poisson(100, 0.5)(1)
    assert cohort == sorted(set(cohort)) and all(type(client) is int for client in cohort)


def test_secret_cohorts_come_from_system_entropy(monkeypatch):
    secret = poisson(100, 0.5, seed=None)
    assert secret(1) != secret(1)
    words = np.arange(100, dtype=np.uint64) * np.uint64(2**64 // 100 + 1)
    monkeypatch.setattr(SystemEntropy, "words", lambda self, count: words[:count])
    assert secret(1) == list(range(50)) != poisson(100, 0.5)(1)


def test_each_attempt_draws_its_own_hidden_cohort():
    sampler = poisson(2000, 0.5)
    cohorts = [set(sampler(3, attempt)) for attempt in range(4)]
    assert cohorts[0] == set(sampler(3)) == set(sampler(3, 0))
    for one, other in combinations(cohorts, 2):
        # independent draws share a quarter of the clients
        assert abs(len(one & other) - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_a_known_cohort_is_the_same_in_each_attempt():
    for sampler in (fixed(50, 0.3), replace(poisson(50, 0.3), hidden=False)):
        assert sampler(3, 0) == sampler(3, 1) == sampler(3, 2)


@pytest.mark.parametrize("config", [CENTRAL, ADAPTIVE, LOCAL, LAYERED, DP_SGD, UDP])
@pytest.mark.parametrize("reproducible", [False, True])
def test_cohorts_are_secret_if_epsilon_relies_on_it(config, reproducible):
    config = replace(config, reproducible_noise=reproducible)
    sampler = cohort_sampler(config, UNITS, 0.3, 1, 5, "f")
    central = config.mechanism in ("central", "central_adaptive")
    seed = None if central and not reproducible else 5
    assert sampler == Sampler(20, 0.3, seed, "f", poisson=central, hidden=central)
    if central:  # everybody who sees the sums knows who took part
        known = replace(config, vantage="sum", relation="zero_out")
        sampler = cohort_sampler(known, UNITS, 0.3, 1, 5, "f")
        assert sampler == Sampler(20, 0.3, 5, "f", poisson=True)


@pytest.mark.parametrize(("bands", "rate"), [(4, 0.25), (3, 1 / 3), (7, 1 / 7)])
def test_groups_take_turns_and_hold_each_client_once(bands, rate):
    sampler = cohort_sampler(MATRIX, UNITS, rate, bands, 5, "f")
    cohorts = [sampler(turn) for turn in range(1, 3 * bands + 1)]
    for first in range(2 * bands + 1):  # any b rounds in a row hold everybody once
        assert sorted(sum(cohorts[first : first + bands], [])) == list(range(20))
    sizes = {len(cohort) for cohort in cohorts}
    assert max(sizes) - min(sizes) <= 1
    assert cohorts[:bands] == cohorts[bands : 2 * bands]


def test_clients_of_a_speaker_have_the_same_turn():
    speakers = [f"s{client // 4}" for client in range(20)]
    sampler = cohort_sampler(MATRIX, speakers, 0.2, 5, 0, "f")
    for turn in range(1, 6):
        assert len({speakers[client] for client in sampler(turn)}) == 1
        assert len(sampler(turn)) == 4


def test_groups_differ_by_seed_and_federation():
    drawn = cohort_sampler(MATRIX, UNITS, 0.25, 4, 0, "f")
    assert drawn.groups == cohort_sampler(MATRIX, UNITS, 0.25, 4, 0, "f").groups
    for seed, name in ((1, "f"), (0, "g")):
        assert drawn.groups != cohort_sampler(MATRIX, UNITS, 0.25, 4, seed, name).groups


def test_a_repeated_round_is_the_turn_of_the_next_group():
    sampler = cohort_sampler(MATRIX, UNITS, 0.25, 4, 0, "f")
    # round 3 was begun twice before: its third attempt is the fifth of all
    assert sampler(3, 2, 5) == sampler(1) != sampler(3)


def test_a_group_is_sampled_with_the_rate_of_its_turn():
    secret = replace(MATRIX, vantage="outsider", relation="add_remove")
    sampler = cohort_sampler(secret, UNITS, 0.2, 2, 0, "f")
    assert sampler.hidden
    drawn = presence(sampler)
    groups = np.array(sampler.groups)
    for group in (0, 1):
        own = drawn[group::2]
        assert not own[:, groups != group].any()
        counts = own[:, groups == group].sum(axis=0)
        # binomial(1500, 0.4): mean 600, standard deviation 19
        assert np.abs(counts - 600).max() < 5 * 19


def test_groups_may_be_empty():
    sampler = cohort_sampler(MATRIX, ["a", "b"], 0.2, 5, 0, "f")
    assert sorted(len(sampler(turn)) for turn in range(1, 6)) == [0, 0, 0, 1, 1]
