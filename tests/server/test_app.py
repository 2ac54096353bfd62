import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors import SafetensorError

from client.app import app as client_app
from client.errors import UserError
from server.app import federate
from server.gaussian import gaussian_epsilon
from server.grid import LocalGrid
from server.transcript import Transcript, TranscriptConfig
from tests.examples import LOCAL, UDP, federation


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
    assert list(models) == [1, 2, 3, 4, 5]
    for server_round in range(1, 5):
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


def test_the_best_round_is_the_best_validated_of_the_later_half(tmp_path):
    outcome = run(tmp_path, rounds=9, fraction=1.0)
    late = [r for r in outcome.rounds if r.round > 4]
    best = max(late, key=lambda r: r.validation_uar)
    assert outcome.best_round == best.round
    assert outcome.best_scores.test_uar == best.test_uar
    assert outcome.rounds[-1].round == 9 and outcome.rounds[-1].clients == 8


def test_training_learns_the_made_up_task(tmp_path):
    outcome = run(tmp_path, rounds=40, fraction=1.0)
    assert outcome.best_scores.test_uar > 0.6  # chance is 0.25


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


def test_local_spends_what_it_is_calibrated_to_and_weighs_clients_alike(tmp_path):
    outcome = run(tmp_path, rounds=3, fraction=1.0, privacy=LOCAL, releases=3)
    assert outcome.epsilon <= 8
    assert outcome.epsilon == pytest.approx(8, rel=1e-6)
    models = dict(Transcript(tmp_path / "t").global_models())
    (chunk,) = Transcript(tmp_path / "t")
    assert set(chunk.num_examples) == {1}  # how much a client holds stays on the device
    assert math.isnan(outcome.rounds[0].train_loss)
    moved = models[1]["dense.0.weight"] + chunk.arrays["dense.0.weight"][:8].mean(axis=0)
    np.testing.assert_allclose(models[2]["dense.0.weight"], moved, atol=1e-5)
    noise = outcome.federation.protocol.plan.client_mechanism().noise
    assert chunk.arrays["dense.0.weight"].std() == pytest.approx(noise, rel=0.1)
    assert all(r.clip_fraction == 0 and r.noise_stddev == noise for r in outcome.rounds)


@pytest.mark.parametrize(("limit", "rounds"), [(3.3, 2), (1e9, 6)])
def test_a_run_stops_before_the_round_that_would_overspend(tmp_path, limit, rounds):
    fixed = replace(LOCAL, epsilon=None, noise_multiplier=2.0, stop_at_epsilon=limit)
    outcome = run(tmp_path, rounds=6, fraction=1.0, privacy=fixed)
    # every client takes part in every round: mu = sqrt(rounds) / 2
    assert [r.epsilon for r in outcome.rounds] == pytest.approx(
        [gaussian_epsilon(math.sqrt(r) / 2, 1e-5) for r in range(1, rounds + 1)]
    )
    assert outcome.epsilon <= limit
    assert outcome.best_scores is not None and 1 <= outcome.best_round <= rounds
    assert max(r for r, _ in releases_of(tmp_path)) == rounds


def test_a_budget_that_no_round_fits_is_refused(tmp_path):
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


def test_a_shadow_federation_records_updates_but_no_models_or_scores(tmp_path):
    outcome = run(tmp_path, test=False)
    assert outcome.best_round == 0 and outcome.best_scores is None
    assert list(Transcript(tmp_path / "t").global_models()) == []
    assert len(releases_of(tmp_path)) == 4 * 3  # 0.4 of 8 clients, four rounds
    assert all(math.isnan(r.validation_uar) for r in outcome.rounds)


def test_only_the_chosen_layers_are_recorded(tmp_path):
    run(tmp_path, transcript=TranscriptConfig(layers="first", dtype="float16"))
    (chunk,) = Transcript(tmp_path / "t")
    assert set(chunk.arrays) == {"dense.0.weight", "dense.0.bias"}


def test_a_failing_client_stops_the_run(tmp_path):
    broken = federation(tmp_path / "t")
    with pytest.raises((FileNotFoundError, SafetensorError)):
        federate(LocalGrid(client_app), broken, tmp_path / "missing", "cpu")
