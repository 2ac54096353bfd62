import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2

from fedser.client import app as client_module
from fedser.client.app import app as client_app
from fedser.client.privacy.gaussian import gaussian_epsilon
from fedser.client.training.engine import LocalTraining
from fedser.common.errors import UserError
from fedser.common.seeds import SystemEntropy
from fedser.conf.algorithm_keys import TranscriptConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.grids.local import LocalGrid
from fedser.server.privacy.accountant import largest, planned_exposures
from fedser.server.privacy.composition import Releases, composed_epsilon
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import Transcript
from tests.examples import (
    ADAPTIVE,
    CENTRAL,
    DP_SGD,
    LAYERED,
    LOCAL,
    MATRIX,
    SHARED,
    UDP,
    NoNoise,
    federation,
)

SUM = replace(CENTRAL, vantage="sum", relation="zero_out")
LAST = {name: size for name, size in SHARED.items() if name.startswith("dense.2")}


def fixed(config, noise_multiplier=2.0, **changes):
    return replace(config, epsilon=None, noise_multiplier=noise_multiplier, **changes)


def run(folder, **kwargs):
    folder.mkdir(parents=True, exist_ok=True)
    return federate(LocalGrid(client_app), federation(folder / "t", **kwargs), folder, "cpu")


def releases_of(folder):
    return [
        r for chunk in Transcript(folder / "t") for r in zip(chunk.round, chunk.client, strict=True)
    ]


def test_recorded_updates_explain_every_next_model(tmp_path):
    outcome = run(tmp_path, rounds=5)
    models = dict(Transcript(tmp_path / "t").global_models())
    (chunk,) = Transcript(tmp_path / "t")
    assert list(models) == [1, 2, 3, 4, 5, 6]
    for server_round in range(1, 6):
        at = chunk.round == server_round
        weights = chunk.num_examples[at] / chunk.num_examples[at].sum()
        for name, model in models[server_round].items():
            moved = model + np.tensordot(weights, chunk.arrays[name][at], axes=1)
            np.testing.assert_allclose(models[server_round + 1][name], moved, atol=1e-6)
    assert outcome.releases == {c: int((chunk.client == c).sum()) for c in np.unique(chunk.client)}
    sizes = outcome.federation.clients.sizes()
    np.testing.assert_array_equal(chunk.num_examples, sizes[chunk.client])


def test_a_seed_reproduces_a_run_to_the_bit(tmp_path):
    outcomes = [run(tmp_path / str(i), seed=s) for i, s in enumerate((0, 0, 1))]
    chunks = [next(iter(Transcript(tmp_path / str(i) / "t"))) for i in range(3)]
    name = "dense.0.weight"
    assert np.array_equal(chunks[0].arrays[name], chunks[1].arrays[name])
    assert not np.array_equal(chunks[0].arrays[name][0], chunks[2].arrays[name][0])
    assert [r.test_uar for r in outcomes[0].rounds] == [r.test_uar for r in outcomes[1].rounds]
    first = outcomes[0].best_arrays
    assert all(np.array_equal(first[n], outcomes[1].best_arrays[n]) for n in first)


def test_the_best_round_is_chosen_in_the_second_half(tmp_path):
    outcome = run(tmp_path, rounds=9, fraction=1.0)
    late = [r for r in outcome.rounds if r.round > 4]
    best = max(late, key=lambda r: r.validation_uar)
    assert outcome.best_round == best.round
    assert outcome.best_scores.test_uar == best.test_uar
    assert outcome.rounds[-1].round == 9 and outcome.rounds[-1].clients == 8


def test_training_learns_the_made_up_task(tmp_path):
    outcome = run(tmp_path, rounds=40, fraction=1.0)
    assert outcome.best_scores.test_uar > 0.5  # chance is 0.25; eight seeds give 0.54 to 0.79


def test_udp_changes_updates_by_the_noise_it_states(tmp_path):
    plain = run(tmp_path / "plain", rounds=1, fraction=1.0)
    noised = run(tmp_path / "udp", rounds=1, fraction=1.0, privacy=UDP)
    (clean,), (noisy,) = Transcript(tmp_path / "plain/t"), Transcript(tmp_path / "udp/t")
    mechanism = noised.federation.protocol.plan.client_mechanism()
    difference = noisy.arrays["dense.0.weight"] - clean.arrays["dense.0.weight"]
    ratios = difference.std(axis=(1, 2)) / [mechanism.stddev(int(n)) for n in noisy.num_examples]
    np.testing.assert_allclose(ratios, 1, atol=4 / math.sqrt(2 * 96))
    assert noised.epsilon > 0 and plain.epsilon is None
    assert math.isnan(noised.rounds[0].train_loss)  # a loss would be one more release
    assert plain.rounds[0].train_loss > 0


def test_epsilon_grows_with_every_release_of_the_busiest_client(tmp_path):
    outcome = run(tmp_path, rounds=6, privacy=UDP)
    spent = [r.epsilon for r in outcome.rounds]
    assert spent == sorted(spent) and spent[0] < spent[-1] == outcome.epsilon


def test_local_spends_its_target_and_weighs_clients_equally(tmp_path):
    outcome = run(tmp_path, rounds=3, fraction=1.0, privacy=LOCAL, exposures=(Releases(3),))
    assert outcome.epsilon <= 8
    assert outcome.epsilon == pytest.approx(8, rel=1e-6)
    models = dict(Transcript(tmp_path / "t").global_models())
    (chunk,) = Transcript(tmp_path / "t")
    assert set(chunk.num_examples) == {1}  # how much a client holds stays on the device
    assert math.isnan(outcome.rounds[0].train_loss)
    moved = models[1]["dense.0.weight"] + chunk.arrays["dense.0.weight"][:8].mean(axis=0)
    np.testing.assert_allclose(models[2]["dense.0.weight"], moved, atol=1e-5)
    (noise,) = outcome.federation.protocol.plan.client_mechanism().noise
    assert chunk.arrays["dense.0.weight"].std() == pytest.approx(noise, rel=0.1)
    assert all(r.clip_fraction == 0 and r.noise_stddev == noise for r in outcome.rounds)


@pytest.mark.parametrize("unit", ["client", "speaker"])
@pytest.mark.parametrize("config", [LOCAL, LAYERED, SUM, CENTRAL, ADAPTIVE, MATRIX, DP_SGD])
def test_a_run_spends_the_epsilon_it_is_calibrated_to(tmp_path, config, unit):
    if config is not DP_SGD:
        config = replace(config, unit=unit)
    planned = federation(tmp_path / "t", privacy=config)
    cohorts = [planned.sampler(r) for r in range(1, 5)]
    by_unit = planned_exposures(
        config,
        cohorts,
        0.4,
        planned.clients.sizes().tolist(),
        planned.clients.units(unit),
        "fedavg",
        planned.protocol.training,
    )
    exposures = largest(by_unit.values())
    # stopping at the target stops no round of the schedule
    limited = replace(config, stop_at_epsilon=8.0)
    outcome = run(tmp_path, privacy=limited, exposures=exposures)
    assert [r.clients for r in outcome.rounds] == [len(cohort) for cohort in cohorts]
    assert outcome.epsilon <= 8 and outcome.epsilon == pytest.approx(8, rel=1e-5)
    spent = [r.epsilon for r in outcome.rounds]
    assert spent == sorted(spent) and spent[-1] == outcome.epsilon
    known = [r.epsilon_known for r in outcome.rounds]
    if config.vantage == "outsider":
        assert known == sorted(known) and known[-1] == outcome.epsilon_known
    else:
        assert outcome.epsilon_known is None and all(map(math.isnan, known))


def test_epsilon_of_an_outsider_is_amplified_by_sampling(tmp_path):
    outcome = run(tmp_path, rounds=5, privacy=fixed(CENTRAL))
    for row in outcome.rounds:
        expected = composed_epsilon(Releases(row.round, 0.4), 2.0, 1e-5, "pld")
        assert row.epsilon == pytest.approx(expected, rel=1e-6)
    busiest = max(outcome.releases.values())
    assert outcome.epsilon_known == pytest.approx(gaussian_epsilon(math.sqrt(busiest) / 2, 1e-5))


def difference_by_rounds(folder, rounds, updates):
    """Yield what the server added in each round: the model's move minus `updates`."""
    models = dict(Transcript(folder / "t").global_models())
    for before, after in pairwise(range(1, rounds + 1)):
        moved = [models[after][n] - models[before][n] for n in SHARED]
        flat = np.concatenate([array.ravel() for array in moved]).astype(np.float64)
        yield before, flat - updates(before)


@pytest.mark.parametrize("config", [CENTRAL, ADAPTIVE])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_a_central_round_is_the_clipped_noised_mean(tmp_path, config, algorithm):
    rounds, step = 12, {"fedavg": 1.0, "fedsgd": -0.1}[algorithm]
    outcome = run(tmp_path, rounds=rounds, privacy=fixed(config, 0.05), algorithm=algorithm)
    (chunk,) = Transcript(tmp_path / "t")
    clips = {row.round: row.clipping_norm for row in outcome.rounds}

    def clipped_sum(server_round):
        at = chunk.round == server_round
        flat = [chunk.arrays[name][at].reshape(at.sum(), SHARED[name]) for name in SHARED]
        flat = np.concatenate(flat, axis=1)
        norms = np.linalg.norm(flat, axis=1)
        row = outcome.rounds[server_round - 1]
        if at.any():
            assert row.clip_fraction == pytest.approx((norms > clips[server_round]).mean())
            assert row.update_norm_max == pytest.approx(norms.max(), rel=1e-5)
        scaled = flat * np.minimum(1, clips[server_round] / norms)[:, None]
        return step * scaled.sum(axis=0) / (0.4 * 8)

    drawn = []
    for server_round, noise in difference_by_rounds(tmp_path, rounds, clipped_sum):
        drawn.append(noise / abs(step) / outcome.rounds[server_round - 1].noise_stddev)
    low, high = chi2.ppf([0.0005, 0.9995], np.size(drawn))
    assert low < np.square(drawn).sum() < high
    plan = outcome.federation.protocol.plan
    for row in outcome.rounds:
        assert row.noise_stddev == pytest.approx(plan.sum_stddev(row.clipping_norm) / 3.2)
        assert math.isnan(row.train_loss)
    assert set(chunk.num_examples) == {1}
    assert len(set(clips.values())) == (rounds if config is ADAPTIVE else 1)


@pytest.mark.parametrize("config", [CENTRAL, ADAPTIVE])
def test_an_empty_round_is_noised_counted_and_recorded(tmp_path, config):
    outcome = run(tmp_path, rounds=12, fraction=0.1, privacy=fixed(config, 1.0))
    empty = [row for row in outcome.rounds if row.clients == 0]
    assert 2 <= len(empty) < 12 == len(outcome.rounds)
    moved = dict(difference_by_rounds(tmp_path, 12, lambda r: 0.0))
    for row in empty:
        assert row.rejected == 0 and math.isnan(row.clip_fraction)
        assert math.isnan(row.update_norm_mean) and math.isnan(row.train_loss)
        assert row.noise_stddev > 0 and row.clipping_norm > 0
        if row.round < 12:
            noise = moved[row.round]
            low, high = chi2.ppf([0.0005, 0.9995], noise.size)
            assert low < np.square(noise / row.noise_stddev).sum() < high
    spent = [row.epsilon for row in outcome.rounds]
    assert all(before < after for before, after in pairwise(spent))
    expected = composed_epsilon(Releases(12, 0.1), 1.0, 1e-5, "pld")
    assert outcome.epsilon == pytest.approx(expected, rel=1e-6)
    recorded = {server_round for server_round, _ in releases_of(tmp_path)}
    assert recorded == {row.round for row in outcome.rounds} - {row.round for row in empty}


@pytest.mark.parametrize("config", [LOCAL, CENTRAL, ADAPTIVE])
def test_unshared_layers_stay_on_the_device(tmp_path, config):
    made = federation(tmp_path / "t", privacy=fixed(config), fraction=1.0)
    plan = replace(made.protocol.plan, shared=LAST)
    made = replace(made, protocol=replace(made.protocol, plan=plan))
    federate(LocalGrid(client_app), made, tmp_path, "cpu")
    models = dict(Transcript(tmp_path / "t").global_models())
    (chunk,) = Transcript(tmp_path / "t")
    for name in SHARED:
        still = all(np.array_equal(models[1][name], model[name]) for model in models.values())
        assert still == (name not in LAST)
        assert (chunk.arrays[name] != 0).any() == (name in LAST)


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("config", [LOCAL, LAYERED, CENTRAL, ADAPTIVE, DP_SGD])
def test_no_noise_is_used_twice(tmp_path, config, reproducible):
    """The noise of a client differs between rounds, and from that of other clients.

    Noise that is used twice can be subtracted, and the audit would not notice it.
    """
    config = fixed(config, 100.0, reproducible_noise=reproducible)
    run(tmp_path, rounds=5, fraction=1.0, privacy=config, algorithm="fedsgd")
    if config.vantage == "outsider":
        drawn = np.array([noise for _, noise in difference_by_rounds(tmp_path, 5, lambda r: 0.0)])
    else:
        (chunk,) = Transcript(tmp_path / "t")
        drawn = np.concatenate([chunk.arrays[name].reshape(40, -1) for name in SHARED], axis=1)
    alike = np.corrcoef(drawn)[np.triu_indices(len(drawn), 1)]
    assert np.abs(alike).max() < 0.6


def test_layers_get_the_noise_of_their_share(tmp_path):
    outcome = run(tmp_path, rounds=2, fraction=1.0, privacy=fixed(LAYERED, 5.0))
    mechanism = outcome.federation.protocol.plan.client_mechanism()
    (chunk,) = Transcript(tmp_path / "t")
    for group, stddev, norm in zip(
        mechanism.groups, mechanism.noise, mechanism.clipping_norms, strict=True
    ):
        drawn = np.concatenate([chunk.arrays[n].reshape(16, -1) for n in group], axis=1)
        low, high = chi2.ppf([0.0005, 0.9995], drawn.size)
        squares = np.square(drawn.astype(np.float64)).sum() / stddev**2
        assert low < squares < high + 16 * (norm / stddev) ** 2 + 8 * math.sqrt(16) * norm / stddev


def test_dp_sgd_sends_only_noisy_gradients(tmp_path):
    quiet, loud = (
        run(tmp_path / str(z), rounds=2, privacy=fixed(DP_SGD, z), algorithm="fedsgd")
        for z in (1e-2, 50.0)
    )
    chunks = [next(iter(Transcript(tmp_path / str(z) / "t"))) for z in (1e-2, 50.0)]
    assert set(chunks[0].num_examples) == {1} and math.isnan(quiet.rounds[0].train_loss)
    # a gradient is the noised sum over the expected batch of 4, its noise 50 clips of 1
    drawn = np.concatenate([a.ravel() for a in chunks[1].arrays.values()])
    low, high = chi2.ppf([0.0005, 0.9995], drawn.size)
    assert low < np.square(drawn.astype(np.float64) / (50.0 / 4)).sum() < high * 1.01
    assert quiet.epsilon > 1e3 > loud.epsilon


KINDS = {
    "udp": UDP,
    "local": fixed(LOCAL),
    "local speaker": fixed(LOCAL, unit="speaker"),
    "layered": fixed(LAYERED),
    "sum": fixed(SUM),
    "sum speaker": fixed(SUM, unit="speaker"),
    "outsider": fixed(CENTRAL),
    "adaptive": fixed(ADAPTIVE),
    "dp_sgd": fixed(DP_SGD, 0.8),
}


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_run_stops_before_it_would_overspend(tmp_path, config):
    free = [row.epsilon for row in run(tmp_path / "free", rounds=5, privacy=config).rounds]
    assert len(free) == 5 and free == sorted(free) and free[0] < free[-1]
    # between what is spent before and after the last round that spends anything
    last = max(r for r in range(1, 5) if free[r] > free[r - 1])
    limit = (free[last] + free[last - 1]) / 2
    stopped = run(tmp_path / "stopped", rounds=5, privacy=replace(config, stop_at_epsilon=limit))
    assert [row.epsilon for row in stopped.rounds] == free[:last]
    assert stopped.epsilon <= limit and stopped.best_scores is not None
    assert max(r for r, _ in releases_of(tmp_path / "stopped")) <= last
    free_models, models = (
        dict(Transcript(tmp_path / name / "t").global_models()) for name in ("free", "stopped")
    )
    assert list(models) == list(range(1, last + 2))  # the last is what the last round left
    for at, model in models.items():
        assert all(np.array_equal(free_models[at][n], model[n]) for n in model)


def test_a_limit_out_of_reach_stops_no_run(tmp_path):
    outcome = run(tmp_path, rounds=6, fraction=1.0, privacy=fixed(LOCAL, stop_at_epsilon=1e9))
    # every client takes part in every round: mu = sqrt(rounds) / 2
    assert [r.epsilon for r in outcome.rounds] == pytest.approx(
        [gaussian_epsilon(math.sqrt(r) / 2, 1e-5) for r in range(1, 7)]
    )


def test_a_limit_below_the_first_round_is_rejected(tmp_path):
    fixed = replace(LOCAL, epsilon=None, noise_multiplier=0.1, stop_at_epsilon=1.0)
    with pytest.raises(UserError, match=r"privacy\.stop_at_epsilon=1 is less than the first round"):
        run(tmp_path, privacy=fixed)


def test_fedsgd_records_gradients_and_steps_against_them(tmp_path):
    run(tmp_path, rounds=2, algorithm="fedsgd", fraction=1.0)
    models = dict(Transcript(tmp_path / "t").global_models())
    (chunk,) = Transcript(tmp_path / "t")
    weights = chunk.num_examples[:8] / chunk.num_examples[:8].sum()
    name = "dense.1.weight"
    expected = models[1][name] - 0.1 * np.tensordot(weights, chunk.arrays[name][:8], axes=1)
    np.testing.assert_allclose(models[2][name], expected, atol=1e-6)


def test_a_shadow_federation_records_no_scores(tmp_path):
    outcome = run(tmp_path, test=False)
    assert outcome.best_round == 0 and outcome.best_scores is None
    models = dict(Transcript(tmp_path / "t").global_models())
    assert list(models) == [1, 2, 3, 4, 5] and set(models[5]) == set(SHARED)
    assert len(releases_of(tmp_path)) == 4 * 3  # 0.4 of 8 clients, four rounds
    assert all(math.isnan(r.validation_uar) for r in outcome.rounds)


def test_only_the_chosen_layers_are_recorded(tmp_path):
    run(tmp_path, transcript=TranscriptConfig(layers="first", dtype="float16"))
    (chunk,) = Transcript(tmp_path / "t")
    assert set(chunk.arrays) == {"dense.0.weight", "dense.0.bias"}
    for _, model in Transcript(tmp_path / "t").global_models():  # a model has all layers in float32
        assert set(model) == set(SHARED)
        assert {array.dtype for array in model.values()} == {np.dtype(np.float32)}


def test_a_failing_client_stops_the_run(tmp_path):
    broken = federation(tmp_path / "t")
    with pytest.raises(OSError, match="missing"):
        federate(LocalGrid(client_app), broken, tmp_path / "missing", "cpu")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("config", [PrivacyConfig(), UDP, fixed(CENTRAL), fixed(DP_SGD)])
def test_a_diverging_client_loses_only_its_own_update(tmp_path, monkeypatch, config, value):
    diverged = []

    class Diverging(LocalTraining):
        def train(self, chunk):
            losses = super().train(chunk)
            if 2 in self.task.clients[chunk] and not diverged:  # in the first round
                self.updates["dense.1.bias"][self.task.clients.index(2), 0] = value
                diverged.append(2)
            return losses

    monkeypatch.setattr(client_module, "LocalTraining", Diverging)
    outcome = run(tmp_path, rounds=2, fraction=1.0, privacy=config)
    assert [(row.clients, row.rejected) for row in outcome.rounds] == [(7, 1), (8, 0)]
    assert 2 not in {client for server_round, client in releases_of(tmp_path) if server_round == 1}
    assert outcome.releases == dict.fromkeys(range(8), 2)  # its update left the device anyway
    models = dict(Transcript(tmp_path / "t").global_models())
    assert all(np.isfinite(array).all() for array in models[2].values())


@pytest.mark.parametrize("config", [fixed(CENTRAL), fixed(ADAPTIVE)])
def test_rejected_huge_updates_do_not_change_the_noise(tmp_path, monkeypatch, config, capsys):
    """The model would clip them, but no attack could read them in the transcript."""

    class Odd(LocalTraining):
        def train(self, chunk):
            for array in self.updates.values():
                array[chunk].fill(3.4e38)
            return [0.0] * len(self.task.clients[chunk])

    monkeypatch.setattr(client_module, "LocalTraining", Odd)
    outcome = run(tmp_path, rounds=2, fraction=1.0, privacy=config)
    assert [row.rejections for row in outcome.rounds] == [{"size": 8}] * 2
    assert releases_of(tmp_path) == []
    first, second, _ = dict(Transcript(tmp_path / "t").global_models()).values()
    moved = np.concatenate([(second[name] - first[name]).ravel() for name in SHARED])
    stddev = outcome.federation.protocol.plan.sum_stddev(outcome.rounds[0].clipping_norm)
    expected_cohort = outcome.federation.protocol.plan.expected_cohort
    assert moved.std() == pytest.approx(stddev / expected_cohort, rel=0.2)
    said = capsys.readouterr().err
    assert "round 1: the update of client 0 is rejected: its norm is" in said


@pytest.mark.parametrize(
    ("config", "size"),
    [(config, 0.0) for config in map(fixed, (LOCAL, LAYERED, CENTRAL, ADAPTIVE))]
    + [
        (fixed(LOCAL), 1e30),
        (fixed(LAYERED), 1e30),
        (fixed(CENTRAL), 1e-2),
        (fixed(ADAPTIVE), 1e-2),
    ],
)
def test_a_zero_or_huge_update_is_noised_like_any_other(tmp_path, monkeypatch, config, size):
    class Odd(LocalTraining):
        def train(self, chunk):
            for array in self.updates.values():
                array[chunk].fill(size)
            return [0.0] * len(self.task.clients[chunk])

    monkeypatch.setattr(client_module, "LocalTraining", Odd)
    outcome = run(tmp_path, rounds=2, fraction=1.0, privacy=config)
    assert [(row.clients, row.rejected) for row in outcome.rounds] == [(8, 0), (8, 0)]
    first, second, _ = dict(Transcript(tmp_path / "t").global_models()).values()
    moved = np.concatenate([(second[name] - first[name]).ravel() for name in SHARED])
    assert (moved != 0).all() and np.isfinite(moved).all()
    row = outcome.rounds[0]
    limit = 8 * config.clipping_norm / 3.2 + 2 * row.noise_stddev * math.sqrt(moved.size)
    assert np.linalg.norm(moved) < limit


@pytest.mark.parametrize("config", [fixed(LOCAL), fixed(LAYERED), fixed(DP_SGD), fixed(SUM), UDP])
def test_noise_comes_from_the_system_by_default(tmp_path, monkeypatch, config):
    def models(name, **changes):
        run(tmp_path / name, rounds=2, privacy=replace(config, **changes))
        clients = [client for _, client in releases_of(tmp_path / name)]
        return dict(Transcript(tmp_path / name / "t").global_models())[2], clients

    (seeded, drawn), (again, _) = models("seeded"), models("again")
    assert all(np.array_equal(seeded[name], again[name]) for name in SHARED)
    first, second = (models(name, reproducible_noise=False) for name in ("first", "second"))
    assert all((first[0][name] != second[0][name]).any() for name in SHARED)
    assert drawn == first[1] == second[1]  # everybody knows who took part, so the seed may tell
    silent = {"words": lambda self, count: NoNoise().words(count)}
    monkeypatch.setattr(SystemEntropy, "words", silent["words"])
    quiet, too = (models(name, reproducible_noise=False)[0] for name in ("quiet", "quiet too"))
    assert all(np.array_equal(quiet[name], too[name]) for name in SHARED)  # no other source


@pytest.mark.parametrize("config", [CENTRAL, ADAPTIVE])
def test_secret_cohorts_come_from_the_system_by_default(tmp_path, config):
    seeded, again, first, second = (
        [row.clients for row in outcome.rounds] + sorted(outcome.releases.items())
        for name, seeded in (("a", True), ("b", True), ("c", False), ("d", False))
        for privacy in [fixed(config, reproducible_noise=seeded)]
        for outcome in [run(tmp_path / name, rounds=8, privacy=privacy)]
    )
    assert seeded == again and len({str(seeded), str(first), str(second)}) == 3
