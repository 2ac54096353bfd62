import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV
from scipy.optimize import brentq
from scipy.stats import binom, norm

from fedser.client.privacy.gaussian import gaussian_epsilon
from fedser.server.privacy import composition
from fedser.server.privacy.composition import (
    Releases,
    accountant_used,
    calibrated_noise,
    composed_epsilon,
    groups_epsilon,
    running_epsilon,
)
from tests.server.privacy import privacy_loss

DELTA = 1e-5
PLANNED = Releases(200, 0.1)
SAMPLED = ("pld", "prv", "rdp")


def balle_wang_delta(mu: float, epsilon: float) -> float:
    """Delta of one Gaussian release: theorem 8 of Balle and Wang (2018)."""
    upper, lower = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    return float(norm.cdf(upper) - math.exp(epsilon + norm.logcdf(lower)))


def binomial_mixture_delta(epsilon: float, rate: float, clients: int, noise: float) -> float:
    """Delta of one release that holds a binomial number of a unit's clients, or none of them.

    The likelihood ratio grows with the released number, so the sets that tell best are
    half-lines, and their probabilities are sums of normal ones.
    """
    held = np.arange(clients + 1)
    weight = binom.pmf(held, clients, rate)

    def log_ratio(x: float) -> float:
        return float(np.logaddexp.reduce(np.log(weight) + (held * x - held**2 / 2) / noise**2))

    def where(value: float) -> float:
        return float(brentq(lambda x: log_ratio(x) - value, -1e3 * noise, 1e3 * noise))

    added = where(epsilon)
    tells_added = weight @ norm.sf(added, held, noise) - math.exp(epsilon) * norm.sf(
        added, 0, noise
    )
    if -epsilon <= math.log(weight[0]):  # nothing that is released makes absence so likely
        return float(tells_added)
    gone = where(-epsilon)
    tells_gone = norm.cdf(gone, 0, noise) - math.exp(epsilon) * (
        weight @ norm.cdf(gone, held, noise)
    )
    return float(max(tells_added, tells_gone))


@pytest.mark.parametrize(
    ("releases", "noise_multiplier", "accountant", "epsilon"),
    [
        # the golden value of dp-accounting's own tests
        (Releases(2250, 0.04), 1.5, "rdp", 7.329),
        (Releases(2250, 0.04), 1.5, "pld", 6.769),
        (PLANNED, 1.0, "pld", 9.97),
        (PLANNED, 1.0, "prv", 9.97),
        (PLANNED, 1.0, "rdp", 11.1),
        (PLANNED, 2.0, "pld", 3.36),
        (PLANNED, 2.0, "prv", 3.36),
        (PLANNED, 2.0, "rdp", 3.68),
        (PLANNED, 4.0, "pld", 1.42),
        (PLANNED, 4.0, "prv", 1.42),
        (PLANNED, 4.0, "rdp", 1.56),
    ],
)
def test_known_values_are_met(releases, noise_multiplier, accountant, epsilon):
    found = composed_epsilon(releases, noise_multiplier, DELTA, accountant)
    assert found == pytest.approx(epsilon, rel=0.01)


@pytest.mark.parametrize(
    ("epsilon", "noise_multiplier"), [(1, 5.51), (2, 3.03), (4, 1.77), (8, 1.13)]
)
def test_the_noise_that_an_epsilon_needs_is_the_known_one(epsilon, noise_multiplier):
    less, more = (
        composed_epsilon(PLANNED, noise_multiplier * factor, DELTA, "prv")
        for factor in (0.99, 1.01)
    )
    assert more < epsilon < less


@given(st.floats(0.05, 20), st.floats(0.3, 50), st.floats(1e-8, 1e-2))
@settings(max_examples=60, deadline=None)
def test_releases_that_hold_everybody_compose_in_closed_form(count, noise, delta):
    for accountant in SAMPLED:
        epsilon = composed_epsilon(Releases(count), noise, delta, accountant)
        reached = balle_wang_delta(math.sqrt(count) / noise, epsilon)
        assert reached <= delta * (1 + 1e-6) if epsilon == 0 else reached == pytest.approx(delta)


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("noise", [1.5, 6.0])
def test_a_rate_of_almost_one_is_a_rate_of_one(noise, clients):
    for count in (1, 20):
        almost = composed_epsilon(Releases(count, 1 - 1e-9, clients), noise, DELTA, "pld")
        exact = composed_epsilon(Releases(count, 1, clients), noise, DELTA, "pld")
        assert exact <= almost * (1 + 1e-9) and almost == pytest.approx(exact, rel=2e-4)
        mu = clients * math.sqrt(count) / noise
        assert balle_wang_delta(mu, exact) == pytest.approx(DELTA)


@pytest.mark.parametrize(
    ("rate", "clients", "noise"),
    [
        (0.02, 1, 0.7),
        (0.3, 1, 3.0),
        (0.9, 1, 0.7),
        (0.02, 2, 3.0),
        (0.3, 2, 0.7),
        (0.9, 2, 3.0),
        (0.02, 5, 0.7),
        (0.3, 5, 3.0),
    ],
)
def test_one_sampled_release_meets_the_best_test_there_is(rate, clients, noise):
    epsilon = composed_epsilon(Releases(1, rate, clients), noise, DELTA, "pld")
    # an upper bound, and a tight one
    assert binomial_mixture_delta(epsilon, rate, clients, noise) <= DELTA
    assert binomial_mixture_delta(epsilon * (1 - 1e-4), rate, clients, noise) > DELTA


@pytest.mark.parametrize(
    ("rate", "clients", "noise"), [(0.2, 1, 1.0), (0.1, 3, 1.5), (0.6, 2, 4.0)]
)
def test_composed_releases_meet_a_simulation(rate, clients, noise):
    """Delta is the mean over what is released of max(0, 1 - e^(epsilon - loss))."""
    rounds, runs, delta = 6, 200_000, 0.02
    rng = np.random.default_rng(0)
    held = np.arange(clients + 1)
    log_weight = np.log(binom.pmf(held, clients, rate))

    def loss(released):
        moved = (held[:, None, None] * released - held[:, None, None] ** 2 / 2) / noise**2
        return np.logaddexp.reduce(log_weight[:, None, None] + moved).sum(axis=1)

    absent = noise * rng.normal(size=(runs, rounds))
    present = rng.binomial(clients, rate, (runs, rounds)) + noise * rng.normal(size=(runs, rounds))
    epsilon = composed_epsilon(Releases(rounds, rate, clients), noise, delta, "pld")
    terms = [np.maximum(0, -np.expm1(epsilon - told)) for told in (loss(present), -loss(absent))]
    deltas, errors = zip(*((t.mean(), t.std() / math.sqrt(runs)) for t in terms), strict=True)
    best = int(np.argmax(deltas))
    assert abs(deltas[best] - delta) < 4 * errors[best]


noises = st.floats(0.8, 20)
rates = st.floats(0.005, 0.45)
counts = st.integers(1, 300)


@given(noises, rates, counts, st.floats(1.01, 2))
@settings(max_examples=15, deadline=None)
def test_more_noise_and_fewer_rarer_releases_spend_less(noise, rate, count, factor):
    spent = [
        composed_epsilon(releases, spread, delta, "pld")
        for releases, spread, delta in (
            (Releases(count, rate), noise, DELTA),
            (Releases(count, rate), noise / factor, DELTA),
            (Releases(count, rate * factor), noise, DELTA),
            (Releases(math.ceil(count * factor), rate), noise, DELTA),
            (Releases(count, rate), noise, DELTA / factor),
        )
    ]
    assert spent[0] <= min(spent[1:]) * (1 + 1e-9)


def test_more_clients_spend_more_but_less_than_together():
    one, two, three = (
        composed_epsilon(Releases(30, 0.1, clients), 4.0, DELTA, "pld") for clients in (1, 2, 3)
    )
    together = composed_epsilon(Releases(30, 0.1), 4.0 / 3, DELTA, "pld")
    assert one < two < three < together


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_only_pld_accounts_for_several_clients_of_a_unit(accountant):
    with pytest.raises(ValueError, match="several clients"):
        composed_epsilon(Releases(2, 0.1, 3), 1.0, DELTA, accountant)


@pytest.mark.parametrize("noise", [0.8, 2.0, 8.0])
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_accountants_agree_and_pld_is_the_tightest(rate, noise):
    releases = Releases(100, rate)
    pld, prv, rdp = (composed_epsilon(releases, noise, DELTA, name) for name in SAMPLED)
    assert pld <= prv <= pld + 0.02  # PRV adds an error of 0.01 on purpose
    assert pld < rdp < 1.25 * pld + 0.05


@pytest.mark.parametrize("count", [1, 2000])
@pytest.mark.parametrize(
    ("noise", "rate"),
    [(0.6, 0.1), (1.0, 0.01), (2.5, 0.01), (2.5, 0.5), (10.0, 0.01), (10.0, 0.1), (10.0, 0.5)],
)
def test_coarse_loss_steps_cost_little_and_are_safe(noise, rate, count):
    fine = _fine(noise, rate).self_compose(count).get_epsilon_for_delta(DELTA)
    coarse = composed_epsilon(Releases(count, rate), noise, DELTA, "pld")
    assert fine * (1 - 1e-7) <= coarse <= 1.002 * fine


@lru_cache
def _fine(noise, rate):
    # dp-accounting's default step is 1e-4, which is coarse itself where a release loses less
    return from_gaussian_mechanism(
        noise,
        value_discretization_interval=min(1e-4, rate / noise / 100),
        sampling_prob=rate,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


@pytest.mark.parametrize(
    ("accountant", "epsilon", "exposures"),
    [
        ("pld", 1.0, (PLANNED,)),
        ("prv", 1.0, (PLANNED,)),
        ("rdp", 1.0, (PLANNED,)),
        ("pld", 8.0, (Releases(30, 0.5), Releases(10, 0.8), Releases(6))),
        ("rdp", 2.0, (Releases(30, 0.1), Releases(200, 0.02), Releases(1))),
        ("pld", 0.4, (Releases(20, 0.1, 2), Releases(2))),
        ("pld", 4.0, (Releases(3), Releases(5), Releases(1, 1, 2))),
    ],
)
def test_calibrated_noise_makes_the_round_trip_from_below(accountant, epsilon, exposures):
    noise = calibrated_noise(exposures, epsilon, DELTA, accountant)
    spent = [composed_epsilon(releases, noise, DELTA, accountant) for releases in exposures]
    assert max(spent) <= epsilon
    assert max(spent) == pytest.approx(epsilon, rel=1e-5)


def test_noise_is_never_too_small_even_if_the_root_is(monkeypatch):
    monkeypatch.setattr("scipy.optimize.brentq", lambda *given, **more: brentq(*given) - 2e-6)
    noise = calibrated_noise((PLANNED,), 4.0, DELTA, "rdp")
    assert 4.0 * (1 - 1e-4) < composed_epsilon(PLANNED, noise, DELTA, "rdp") <= 4.0


def test_an_epsilon_that_no_noise_reaches_is_refused():
    with pytest.raises(ValueError, match="no noise is enough"):
        calibrated_noise((Releases(200, 0.5),), 1e-8, DELTA, "pld")


@pytest.mark.parametrize("accountant", SAMPLED)
@pytest.mark.parametrize("noise", [0.199, 0.02, 1e-4])
def test_very_little_noise_is_accounted_for_without_sampling(noise, accountant):
    # for one release in ten PRV would read 707 at a noise of 0.02, where 1433 is spent
    releases = Releases(3, 0.1)
    epsilon = composed_epsilon(releases, noise, DELTA, accountant)
    assert epsilon == composed_epsilon(Releases(3), noise, DELTA, accountant)
    assert epsilon == running_epsilon(releases, noise, DELTA, accountant)
    assert epsilon > composed_epsilon(releases, 0.21, DELTA, "pld")


def test_nothing_released_spends_nothing():
    for releases in (Releases(0), Releases(0, 0.1), Releases(0, 0.1, 3)):
        for accountant in SAMPLED:
            assert composed_epsilon(releases, 1.0, DELTA, accountant) == 0
            assert running_epsilon(releases, 1.0, DELTA, accountant) == 0


@pytest.mark.parametrize(
    ("noise", "rate", "clients", "last"),
    [(1.1, 0.1, 1, 200), (6.0, 0.3, 1, 100), (2.0, 0.1, 4, 40)],
)
def test_running_epsilon_is_the_composed_one(noise, rate, clients, last):
    counts = [1, 2, 3, last // 2, last]
    running = [running_epsilon(Releases(n, rate, clients), noise, DELTA, "pld") for n in counts]
    at_once = [composed_epsilon(Releases(n, rate, clients), noise, DELTA, "pld") for n in counts]
    assert running == pytest.approx(at_once, rel=1e-6)
    assert running == sorted(running)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_running_epsilon_equals_composed_epsilon_without_pld(accountant):
    for releases in (Releases(7, 0.2), Releases(7)):
        assert running_epsilon(releases, 2.0, DELTA, accountant) == composed_epsilon(
            releases, 2.0, DELTA, accountant
        )


def test_running_epsilon_does_not_depend_on_earlier_calls():
    def ask(counts):
        composition._curve.cache_clear()
        return {n: running_epsilon(Releases(n, 0.2), 1.3, DELTA, "pld") for n in counts}

    forwards, backwards, alone = ask(range(1, 40)), ask(range(39, 0, -1)), ask([23])
    assert forwards == backwards  # to the bit
    assert alone[23] == forwards[23]


def test_concurrent_federations_keep_their_epsilons():
    composition._curve.cache_clear()
    counts = range(1, 13)

    def spend(_):
        return [running_epsilon(Releases(n, 0.3), 1.1, DELTA, "pld") for n in counts]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(spend, range(4)))
    composition._curve.cache_clear()
    assert all(epsilons == spend(0) for epsilons in found)


@pytest.mark.parametrize(
    ("groups", "accountant"),
    [
        ([(0.1, 1, 200, 1.0), (0.1, 1, 200, 2.0)], "pld"),
        ([(0.1, 1, 100, 1.5), (0.3, 1, 40, 2.5)], "pld"),
        ([(0.1, 1, 100, 1.5), (1.0, 1, 20, 8.0)], "pld"),
        ([(0.2, 2, 50, 3.0), (0.1, 1, 200, 2.0)], "pld"),
        ([(0.1, 1, 100, 1.5), (0.3, 1, 40, 2.5)], "prv"),
        ([(0.1, 1, 100, 1.5), (1.0, 1, 20, 8.0)], "prv"),
        ([(1.0, 1, 9, 4.0), (1.0, 1, 20, 8.0)], "pld"),
    ],
)
def test_groups_compose_as_by_an_independent_accountant(groups, accountant):
    asked = tuple((Releases(count, rate, clients), noise) for rate, clients, count, noise in groups)
    found = groups_epsilon(asked, DELTA, accountant)
    assert found == pytest.approx(privacy_loss.epsilon(groups, DELTA), rel=5e-3)
    for group in asked:
        assert found > groups_epsilon((group,), DELTA, accountant)
    assert found <= groups_epsilon(asked, DELTA, "pld" if asked[0][0].clients > 1 else "rdp") * (
        1 + 1e-3
    )


def test_no_releases_spend_nothing():
    assert groups_epsilon((), DELTA, "pld") == 0
    assert groups_epsilon(((Releases(0, 0.5), 1.0),), DELTA, "pld") == 0


@pytest.mark.parametrize(("noise", "rate", "count"), [(0.3, 0.5, 500), (0.25, 0.9, 2000)])
def test_an_accountant_that_would_need_gigabytes_gives_way(noise, rate, count):
    group = (Releases(count, rate), noise)
    assert accountant_used([group], DELTA, "prv") == "pld"
    assert accountant_used([(Releases(200, 0.1), 1.0)], DELTA, "prv") == "prv"
    found = composed_epsilon(*group, DELTA, "prv")
    assert found == composed_epsilon(*group, DELTA, "pld")
    assert 0 < found <= gaussian_epsilon(math.sqrt(count) / noise, DELTA)


@pytest.mark.parametrize(("noise", "rate", "count"), [(1.0, 0.1, 200), (0.8, 0.01, 1000)])
def test_the_grid_of_opacus_is_foreseen(noise, rate, count):
    domain = PRVAccountant()._get_domain(
        prvs=[PoissonSubsampledGaussianPRV(rate, noise)],
        num_self_compositions=[count],
        eps_error=composition.PRV_ERROR,
        delta_error=DELTA / 1000,
    )
    points = composition._prv_points(((Releases(count, rate), noise),), DELTA)
    assert points == pytest.approx(domain.size, rel=1e-3)


def test_a_tiny_delta_is_accounted_for_without_rounding_errors():
    group = (Releases(200, 0.1), 2.0)
    for asked in SAMPLED:
        assert accountant_used([group], 1e-15, asked) == "rdp"
        assert composed_epsilon(*group, 1e-15, asked) == composed_epsilon(*group, 1e-15, "rdp")
    noise = calibrated_noise((Releases(200, 0.1),), 8.0, 1e-15, "pld")
    assert composed_epsilon(Releases(200, 0.1), noise, 1e-15, "pld") <= 8


@pytest.mark.parametrize("accountant", SAMPLED)
@pytest.mark.parametrize("releases", [Releases(200, 0.1), Releases(20)])
def test_huge_noise_spends_nothing_and_nothing_fails(releases, accountant):
    found = composed_epsilon(releases, 1e7, DELTA, accountant)
    assert 0 <= found < 0.02
    assert running_epsilon(releases, 1e7, DELTA, accountant) >= 0
