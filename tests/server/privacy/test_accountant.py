import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedser.client.privacy.gaussian import gaussian_epsilon, gaussian_mu
from fedser.client.privacy.user_level import UserLevelDP
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.training_keys import TrainingConfig
from fedser.server.federation.cohort import Sampler, cohort_sampler
from fedser.server.privacy.accountant import (
    Accountant,
    Schedule,
    batch_releases,
    composed,
    largest,
    planned_exposures,
    spent,
    squared_sensitivities,
)
from fedser.server.privacy.composition import Releases, composed_epsilon
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.privacy.udp import udp_mu
from tests.examples import ADAPTIVE, CENTRAL, DP_SGD, LAYERED, LOCAL, SHARED, UDP

PARAMETERS = 286_596  # 988-256-128-4
DELTA = 1e-5
SUM = replace(CENTRAL, vantage="sum", relation="zero_out")
TRAINING = TrainingConfig(batch_size=5)
SPEAKERS = ["a", "a", "a", "b", "b", "c"]
CLIENTS = list(range(6))


def fixed(config: PrivacyConfig, noise_multiplier: float, **changes) -> PrivacyConfig:
    return replace(config, epsilon=None, noise_multiplier=noise_multiplier, **changes)


def accountant(
    config, units=CLIENTS, sizes=None, rate=0.4, algorithm="fedavg", others=(), **changes
):
    plan = PrivacyPlan(config, rate, 10, len(units), shared=SHARED, **changes)
    sizes = sizes or [20] * len(units)
    return Accountant(plan, sizes, units, PARAMETERS, algorithm, TRAINING, others)


def spend(ledger, cohorts):
    for cohort in cohorts:
        ledger.add(cohort)
    return ledger.epsilon


def udp(epsilon: float) -> UserLevelDP:
    return UserLevelDP(0.25, sampling_rate=0.1, num_rounds=200, epsilon=epsilon, delta=0.5)


@pytest.mark.parametrize(
    ("nominal", "claimed", "clipped", "as_coded"),
    [
        (5, 26.4, 721, 4_522),
        (10, 71, 2_597, 17_314),
        (25, 315, 15_150, 105_306),
        (50, 1_082, 59_156, 417_348),
    ],
)
def test_nominal_against_real_epsilon(nominal, claimed, clipped, as_coded):
    # independent exact composition for n = 20, 20 releases, replace-one, delta 1e-5
    stddev = udp(nominal).stddev(20)
    for sensitivity, expected in ((0.025, claimed), (0.2, clipped)):
        mu = sensitivity / stddev * math.sqrt(20)
        assert gaussian_epsilon(mu, DELTA) == pytest.approx(expected, rel=0.01)
    mu = udp_mu(udp(nominal), 20, PARAMETERS, "fedavg", TrainingConfig())
    assert gaussian_epsilon(mu * math.sqrt(20), DELTA) == pytest.approx(as_coded, rel=0.01)
    plan = PrivacyPlan(replace(UDP, epsilon=float(nominal)), 0.1, 200)
    ledger = Accountant(plan, [20, 20], [0, 1], PARAMETERS, "fedavg", TrainingConfig())
    assert spend(ledger, [[0]] * 20 + [[1]] * 7) == pytest.approx(as_coded, rel=0.01)


@given(st.floats(0.01, 20), st.floats(1e-9, 0.4))
@settings(max_examples=100, deadline=None)
def test_epsilon_solves_the_closed_form(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    reached = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    if epsilon == 0:
        assert reached <= delta
    else:
        assert reached == pytest.approx(delta, rel=1e-4, abs=1e-13)


def test_epsilon_at_the_edges():
    assert gaussian_epsilon(0, DELTA) == 0
    assert gaussian_epsilon(math.inf, DELTA) == math.inf
    for config in (LOCAL, SUM, CENTRAL, DP_SGD, UDP):
        assert accountant(config).epsilon == 0
    assert accountant(PrivacyConfig()).epsilon is None
    assert spend(accountant(PrivacyConfig()), [[0]]) is None


def test_epsilon_of_a_huge_mu_joins_on_and_grows():
    below, above = gaussian_epsilon(9_999.9, DELTA), gaussian_epsilon(10_000.1, DELTA)
    assert above == pytest.approx(below, rel=1e-4)
    assert below < above < gaussian_epsilon(1e9, DELTA) == pytest.approx(5e17, rel=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "noise_multiplier"), [(1, 33.4), (2, 17.8), (4, 9.7), (8, 5.4), (16, 3.1)]
)
def test_noise_for_twenty_releases_at_an_epsilon(epsilon, noise_multiplier):
    # reference values at delta 1e-5, in units of the clip C where the sensitivity is 2 C
    needed = 2 * math.sqrt(20) / gaussian_mu(epsilon, DELTA)
    assert needed == pytest.approx(noise_multiplier, abs=0.06)


@pytest.mark.parametrize(("noise_multiplier", "epsilon"), [(1, 28.4), (2, 11.5), (4, 5.0)])
def test_epsilon_of_twenty_releases_whose_sender_is_known(noise_multiplier, epsilon):
    for config in (LOCAL, LAYERED, SUM):
        found = spend(accountant(fixed(config, noise_multiplier)), [[0]] * 20)
        assert found == pytest.approx(epsilon, rel=0.01)
        assert found == pytest.approx(gaussian_epsilon(math.sqrt(20) / noise_multiplier, DELTA))


@given(st.floats(0.01, 50), st.floats(1e-9, 0.4))
@settings(max_examples=60, deadline=None)
def test_calibration_makes_the_round_trip_from_below(epsilon, delta):
    reached = gaussian_epsilon(gaussian_mu(epsilon, delta), delta)
    assert reached <= epsilon
    assert reached == pytest.approx(epsilon, rel=1e-6, abs=1e-6)


def test_the_ledger_keeps_the_cohorts_and_counts_the_releases():
    ledger = accountant(LOCAL)
    spend(ledger, [[3, 1], [], [1]])
    assert ledger.cohorts == [[1, 3], [], [1]]
    assert ledger.releases == Counter({1: 2, 3: 1})


def test_local_counts_releases_of_the_worst_client_or_speaker():
    cohorts = [[0, 1, 3], [0, 4], [0, 1, 2], []]
    clients, speakers = (
        spend(accountant(fixed(LOCAL, 2.0, unit=unit), units), cohorts)
        for unit, units in (("client", CLIENTS), ("speaker", SPEAKERS))
    )
    # client 0 is in three rounds; its speaker's clients make 2 + 1 + 3 releases
    assert clients == pytest.approx(gaussian_epsilon(math.sqrt(3) / 2, DELTA))
    assert speakers == pytest.approx(gaussian_epsilon(math.sqrt(6) / 2, DELTA))


def test_the_unit_that_spent_most_counts():
    # under UDP noise depends on how much a client holds: smaller clients get more
    training, sizes = TrainingConfig(), [20, 10, 40]
    mus = [udp_mu(udp(5), n, PARAMETERS, "fedavg", training) for n in sizes]
    for units, expected in (
        ([0, 1, 2], max(4 * mus[0] ** 2, mus[1] ** 2, 3 * mus[2] ** 2)),
        (["a", "a", "b"], max(4 * mus[0] ** 2 + mus[1] ** 2, 3 * mus[2] ** 2)),
        (["a", "b", "b"], max(4 * mus[0] ** 2, mus[1] ** 2 + 3 * mus[2] ** 2)),
    ):
        plan = PrivacyPlan(UDP, 0.1, 200)
        ledger = Accountant(plan, sizes, units, PARAMETERS, "fedavg", training)
        found = spend(ledger, [[0, 2], [0, 2], [0, 1, 2], [0]])
        assert found == pytest.approx(gaussian_epsilon(math.sqrt(expected), DELTA))


def test_clients_of_a_speaker_add_up_within_a_noised_sum():
    cohorts = [[0, 1, 3], [0, 4], [0, 1, 2], []]
    clients, speakers = (
        spend(accountant(fixed(SUM, 2.0, unit=unit), units), cohorts)
        for unit, units in (("client", CLIENTS), ("speaker", SPEAKERS))
    )
    assert clients == pytest.approx(gaussian_epsilon(math.sqrt(3) / 2, DELTA))
    # 2^2 + 1^2 + 3^2 squared clipping norms
    assert speakers == pytest.approx(gaussian_epsilon(math.sqrt(14) / 2, DELTA))


@given(
    st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=8),
    st.floats(0.5, 10),
    st.sampled_from([LOCAL, SUM]),
)
@settings(max_examples=60, deadline=None)
def test_any_schedule_composes_as_one_gaussian_vector(cohorts, noise, config):
    """Each round releases every client's update, or their sum, with a noise of `noise` clips."""
    ledger = accountant(fixed(config, noise, unit="speaker"), SPEAKERS)
    moved = {}
    for speaker in set(SPEAKERS):
        mine = [[c for c in cohort if SPEAKERS[c] == speaker] for cohort in cohorts]
        summed, one_by_one = [len(own) for own in mine], [1 for own in mine for _ in own]
        moved[speaker] = math.hypot(0, *(summed if config is SUM else one_by_one))
    expected = gaussian_epsilon(max(moved.values()) / noise, DELTA)
    assert spend(ledger, cohorts) == pytest.approx(expected)


def test_an_outsider_counts_rounds_and_not_who_was_in_them():
    config = fixed(CENTRAL, 1.5)
    absent, present = accountant(config), accountant(config)
    for _ in range(8):
        absent.add([])
        present.add(CLIENTS)
    assert absent.epsilon == present.epsilon
    assert absent.epsilon == pytest.approx(
        composed_epsilon(Releases(8, 0.4), 1.5, DELTA, "pld"), rel=1e-6
    )
    assert absent.known_epsilon == 0
    assert present.known_epsilon == pytest.approx(gaussian_epsilon(math.sqrt(8) / 1.5, DELTA))
    assert present.epsilon < present.known_epsilon


def test_an_outsider_is_told_of_the_speaker_with_most_clients():
    ledger = accountant(fixed(CENTRAL, 2.0, unit="speaker"), SPEAKERS)
    spent = spend(ledger, [[5], [0, 1]])
    expected = composed_epsilon(Releases(2, 0.4, 3), 2.0, DELTA, "pld")
    assert spent == pytest.approx(expected, rel=1e-6)
    assert ledger.known_epsilon == pytest.approx(gaussian_epsilon(2 / 2.0, DELTA))


@pytest.mark.parametrize(("units", "clients"), [(CLIENTS, 1), (SPEAKERS, 3)])
def test_cohorts_of_everybody_keep_no_secret(units, clients):
    unit = "speaker" if clients > 1 else "client"
    ledger = accountant(fixed(CENTRAL, 2.0, unit=unit), units, rate=1.0)
    spent = spend(ledger, [CLIENTS] * 4)
    assert spent == ledger.known_epsilon
    assert spent == pytest.approx(gaussian_epsilon(clients * math.sqrt(4) / 2.0, DELTA))


@pytest.mark.parametrize("config", [LOCAL, LAYERED, SUM, DP_SGD, UDP, PrivacyConfig()])
def test_only_an_outsider_has_a_known_epsilon_beside_epsilon(config):
    ledger = accountant(config)
    ledger.add([0])
    assert ledger.known_epsilon is None


def test_an_utterance_is_in_each_batch_of_its_clients_releases():
    config = fixed(DP_SGD, 1.1)
    sizes = [20, 5, 100, 8, 8, 8]  # steps of 5: rates 1/4, 1, 1/20, 5/8
    alone = [
        composed_epsilon(Releases(4 * 3, 0.25), 1.1, DELTA, "pld"),
        gaussian_epsilon(math.sqrt(2) / 1.1, DELTA),
        composed_epsilon(Releases(20 * 9, 0.05), 1.1, DELTA, "pld"),
    ]
    cohorts = [[0, 1, 2]] * 2 + [[0, 2]] + [[2]] * 6
    ledger = accountant(config, sizes=sizes)
    assert spend(ledger, cohorts) == pytest.approx(max(alone), rel=1e-6)
    for client, expected in enumerate(alone):
        ledger = accountant(config, sizes=sizes)
        own = [[client]] * sum(client in cohort for cohort in cohorts)
        assert spend(ledger, own) == pytest.approx(expected, rel=1e-6)


def test_fedsgd_counts_one_batch_per_release():
    assert batch_releases(17, "fedavg", TRAINING) == Releases(4, 5 / 17)
    assert batch_releases(17, "fedsgd", TRAINING) == Releases(1, 5 / 17)
    assert batch_releases(3, "fedavg", replace(TRAINING, epochs=2)) == Releases(2, 1.0)
    ledger = accountant(fixed(DP_SGD, 1.1), sizes=[17] * 6, algorithm="fedsgd")
    expected = composed_epsilon(Releases(3, 5 / 17), 1.1, DELTA, "pld")
    assert spend(ledger, [[0]] * 3) == pytest.approx(expected, rel=1e-6)


def worst(config, cohorts, units, rate=0.4):
    """Planned releases of the units that may be worst off."""
    planned = planned_exposures(config, cohorts, rate, SIZES, units, "fedavg", TRAINING)
    return largest(planned.values())


SCHEDULE = [[0, 1, 3], [0, 4], [0, 1, 2], [], [2, 5]]
SIZES = [20, 5, 60, 8, 11, 8]


@pytest.mark.parametrize("unit", ["client", "speaker"])
@pytest.mark.parametrize("config", [LOCAL, LAYERED, SUM, CENTRAL, ADAPTIVE, DP_SGD])
@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_what_is_planned_is_what_is_spent(config, unit, rate):
    """The noise is calibrated to the exposures, and the ledger reads the target at the end."""
    units = SPEAKERS if unit == "speaker" else CLIENTS
    config = replace(config, epsilon=2.0, unit=config.unit if config is DP_SGD else unit)
    exposures = worst(config, SCHEDULE, units, rate)
    ledger = accountant(config, units, SIZES, rate, exposures=exposures)
    spent = spend(ledger, SCHEDULE)
    assert spent <= config.epsilon
    assert spent == pytest.approx(config.epsilon, rel=1e-5)


@pytest.mark.parametrize("config", [LOCAL, SUM, CENTRAL])
def test_clips_count_once_per_client_of_a_speaker_and_round(config):
    def planned(units, unit):
        asked = replace(config, unit=unit)
        return worst(asked, SCHEDULE, units)

    by_client, by_speaker = planned(CLIENTS, "client"), planned(SPEAKERS, "speaker")
    assert (
        by_client
        == {
            "attributed": (Releases(3),),
            "sum": (Releases(3),),
            "outsider": (Releases(5, 0.4, 1),),
        }[config.vantage]
    )
    assert (
        by_speaker
        == {
            "attributed": (Releases(7),),  # 2 + 1 + 3 + 1
            "sum": (Releases(15),),  # 4 + 1 + 9 + 1
            "outsider": (Releases(5, 0.4, 3),),
        }[config.vantage]
    )


def test_every_kind_of_client_of_the_schedule_is_planned_for():
    found = worst(DP_SGD, [[0, 1], [0], [2]], CLIENTS)
    assert set(found) == {Releases(4 * 2, 0.25), Releases(1, 1.0), Releases(12, 1 / 12)}


@pytest.mark.parametrize("config", [LOCAL, SUM])
def test_a_schedule_without_anybody_releases_nothing(config):
    assert worst(config, [[], []], CLIENTS) == ()


def test_squares_add_up_between_noises_and_clients_within_one():
    mus = {0: 1.0, 1: 2.0, 3: 3.0}
    assert squared_sensitivities(mus, SPEAKERS, summed=False) == {"a": 5.0, "b": 9.0}
    assert squared_sensitivities(mus, SPEAKERS, summed=True) == {"a": 9.0, "b": 9.0}


@pytest.mark.parametrize(
    ("config", "unit"),
    [(LOCAL, "client"), (LOCAL, "speaker"), (SUM, "speaker"), (CENTRAL, "client")],
)
def test_what_overspends_is_told_before_it_is_spent(config, unit):
    units = SPEAKERS if unit == "speaker" else CLIENTS
    free = accountant(fixed(config, 2.0, unit=unit), units)
    spent = []
    for cohort in SCHEDULE:
        free.add(cohort)
        spent.append(free.epsilon)
    for limit in (spent[1], np.mean(spent[1:3]), 0.9 * spent[0], spent[-1]):
        ledger = accountant(fixed(config, 2.0, unit=unit, stop_at_epsilon=float(limit)), units)
        for cohort, after in zip(SCHEDULE, spent, strict=True):
            before = ledger.epsilon
            assert ledger.overspends(1, cohort) == (after > limit)
            assert ledger.epsilon == before and len(ledger.cohorts) < len(SCHEDULE)  # asked only
            ledger.add(cohort)


@pytest.mark.parametrize("config", [LOCAL, SUM, CENTRAL, DP_SGD])
def test_federations_that_stop_alone_keep_to_the_limit_together(config):
    schedules = [
        Schedule(SIZES, CLIENTS, SCHEDULE),
        Schedule(SIZES, CLIENTS, [[0, 2], [1], [0, 5], [3], [0]], repeated=[[0, 2], [1]]),
        Schedule(SIZES, CLIENTS, [[4], [0, 1, 2, 3], [2], [0], [1]], repeated=[[2], [0]]),
    ]
    plan = PrivacyPlan(fixed(config, 2.0), 0.4, 10, 6, shared=SHARED)
    for limit in (1.0, 2.5, 4.0, 5.0, 6.0):
        asked = fixed(config, 2.0, stop_at_epsilon=limit)
        done = []
        for own in schedules:
            others = tuple(other for other in schedules if other is not own)
            ledger = accountant(asked, sizes=SIZES, others=others)
            for cohort in own.repeated:
                ledger.add(cohort)
            for server_round, cohort in enumerate(own.cohorts, 1):
                if ledger.overspends(server_round, cohort):
                    break
                ledger.add(cohort)
            done.append(ledger)
        together = composed(ledger.exposures for ledger in done)
        repeated = [accountant(asked, sizes=SIZES) for _ in schedules]
        for ledger, own in zip(repeated, schedules, strict=True):
            spend(ledger, own.repeated)
        before = spent(plan, composed(ledger.exposures for ledger in repeated).values())
        assert spent(plan, together.values()) <= max(limit, before)


def test_releases_of_a_unit_add_up_over_federations():
    parts = [
        {"a": Releases(3, 0.4, 2), "b": Releases(1, 0.4)},
        {"a": Releases(2, 0.4, 2), "c": Releases(7, 0.4)},
    ]
    together = composed(parts)
    assert together == {
        "a": Releases(5, 0.4, 2),
        "b": Releases(1, 0.4),
        "c": Releases(7, 0.4),
    }
    assert largest(together.values()) == (Releases(7, 0.4), Releases(5, 0.4, 2))
    assert largest([Releases(5, 0.4), Releases(5, 0.4, 2), Releases(2, 0.4, 2)]) == (
        Releases(5, 0.4, 2),
    )
    with pytest.raises(ValueError, match="a: "):
        composed([*parts, {"a": Releases(1, 0.5, 2)}])


def test_a_class_of_the_user_s_own_is_not_accounted_for():
    for target in (
        "fedser.client.privacy.local.LocalDP",
        "fedser.client.privacy.user_level.UserLevelDP",
    ):
        ours = {
            "fedser.client.privacy.local.LocalDP": {
                "share_metrics": False,
                "groups": [list(SHARED)],
                "clipping_norms": [0.1],
                "noise": [0.1],
            },
            "fedser.client.privacy.user_level.UserLevelDP": vars(udp(5)),
        }[target]
        config = PrivacyConfig(mechanism="custom", custom={"_target_": target, **ours})
        assert spend(accountant(config), [[0]]) is None


def test_without_a_limit_nothing_overspends():
    assert not accountant(fixed(LOCAL, 1e-3)).overspends(1, CLIENTS)


schedules = st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=8)


@given(schedules, st.floats(0.5, 50), st.sampled_from([LOCAL, SUM]))
@settings(max_examples=60, deadline=None)
def test_calibrated_noise_allows_every_planned_round(cohorts, epsilon, config):
    config = replace(config, unit="speaker", epsilon=epsilon, stop_at_epsilon=epsilon)
    exposures = worst(config, cohorts, SPEAKERS)
    ledger = accountant(config, SPEAKERS, SIZES, exposures=exposures)
    for cohort in cohorts:
        assert not ledger.overspends(1, cohort)
        ledger.add(cohort)
    assert ledger.overspends(1, CLIENTS)


@pytest.mark.parametrize("config", [CENTRAL, DP_SGD])
def test_no_sampled_round_is_cut_off_either(config):
    config = replace(config, stop_at_epsilon=config.epsilon)
    exposures = worst(config, SCHEDULE, CLIENTS)
    ledger = accountant(config, CLIENTS, SIZES, exposures=exposures)
    for cohort in SCHEDULE:
        assert not ledger.overspends(1, cohort)
        ledger.add(cohort)
    assert ledger.overspends(1, [0])


def test_a_speaker_is_planned_for_over_many_poisson_cohorts():
    config = replace(SUM, unit="speaker")
    sampler = cohort_sampler(config, list("aaabbb"), 0.4, 1, 3, "f")
    assert sampler == Sampler(6, 0.4, 3, "f", poisson=True)
    cohorts = [sampler(r) for r in range(1, 51)]
    (planned,) = worst(config, cohorts, SPEAKERS)
    held = np.array([[sum(c < 3 for c in cohort)] for cohort in cohorts])
    assert planned.rate == 1 and planned.count == np.sum(held**2)


def test_a_clipped_gradient_moves_by_twice_the_clip():
    mu = udp_mu(udp(5), 20, PARAMETERS, "fedsgd", TrainingConfig())
    assert mu == pytest.approx(0.5 / udp(5).stddev(20))
    plan = PrivacyPlan(UDP, 0.1, 200)
    ledger = Accountant(plan, [20], [0], PARAMETERS, "fedsgd", TrainingConfig())
    assert spend(ledger, [[0]] * 3) == pytest.approx(gaussian_epsilon(mu * math.sqrt(3), DELTA))
