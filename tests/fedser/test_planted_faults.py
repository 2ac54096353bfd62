"""The audit finds faults that are planted in the mechanisms, through the real code path."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedser.attacks.evaluation.audit import evaluate_audit
from fedser.client import app
from fedser.client.privacy import distributed, rounded_gaussian
from fedser.client.privacy import local as privacy
from fedser.client.privacy.local import LocalDP
from fedser.client.training import dp_sgd
from fedser.client.training.engine import LocalTraining
from fedser.common.seeds import Reproducible
from fedser.conf.schema import AuditConfig, RuntimeConfig
from fedser.server.federation.cohort import Sampler
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.matrix_factorization import WHITE
from fedser.server.rounds import audit_noise
from fedser.server.strategy import aggregate, sum_noise
from fedser.server.strategy import averaging as strategy
from fedser.server.strategy.aggregate import NoisedMean, update_norms
from fedser.server.study.run import run_canaries
from tests.examples import (
    ADAPTIVE,
    CENTRAL,
    DISTRIBUTED,
    DP_SGD,
    FEATURES,
    LAYERED,
    LOCAL,
    MATRIX,
    NoNoise,
    protocol,
)

AUDIT = AuditConfig("canary", canaries=100, releases=1, magnitudes=[1.0])


def fixed(config, noise_multiplier):
    return replace(
        config, epsilon=None, noise_multiplier=noise_multiplier, reproducible_noise=False
    )


MECHANISMS = {
    "local": fixed(LOCAL, 4.0),
    "layered": fixed(LAYERED, 4.0),
    "central": fixed(CENTRAL, 2.0),
    "central_adaptive": fixed(ADAPTIVE, 2.0),
    "central_matrix": fixed(MATRIX, 2.0),
    "distributed": fixed(DISTRIBUTED, 2.0),
    "dp_sgd": fixed(DP_SGD, 1.0),
}


def audit(mechanism):
    made = protocol(privacy=MECHANISMS[mechanism], exposures=(Releases(4),), num_clients=20)
    return evaluate_audit(
        run_canaries(made, FEATURES, AUDIT, RuntimeConfig("local")), made.plan, AUDIT
    )


def failed(found):
    return {test["name"] for test in found["tests"] if test["failed"]}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_correct_mechanism_passes_every_test(mechanism):
    found = audit(mechanism)
    assert not found["violated"] and not failed(found)
    assert len(found["tests"]) > 40 and found["tested"] and found["not_tested"]


def clip_without_biases(patch):
    real = privacy.clip_factor

    def weights_alone(update, norm):
        return real({n: a for n, a in update.items() if "weight" in n}, norm)

    for module in (privacy, distributed):
        patch.setattr(module, "clip_factor", weights_alone)
    patch.setattr(aggregate.DistributedMean, "_check", lambda *_: None)  # it would end the audit
    patch.setattr(
        strategy,
        "update_norms",
        lambda arrays: update_norms({n: a for n, a in arrays.items() if "weight" in n}),
    )


def no_noise_on_one_tensor(patch):
    real = privacy.add_noise
    patch.setattr(
        privacy,
        "add_noise",
        lambda values, factor, step, stddev, noise: real(
            values, factor, step, 0.0 if values.shape == (8,) else stddev, noise
        ),
    )


def draw_wrong_noise(patch, draw):
    """Draw integers with the right standard deviation from another distribution."""

    def integers(count, stddev, noise):
        random = np.random.default_rng(int(noise.words(1)[0]))
        return np.rint(stddev * draw(random, count)).astype(np.int64)

    patch.setattr(rounded_gaussian, "gaussian_integers", integers)
    patch.setattr(aggregate, "gaussian_integers", integers)
    patch.setattr(sum_noise, "gaussian_integers", integers)
    patch.setattr(distributed, "gaussian_integers", integers)


def uniform_noise(patch):
    draw_wrong_noise(patch, lambda random, count: random.uniform(-(3**0.5), 3**0.5, count))


def truncated_noise(patch):
    def draw(random, count):
        found = random.standard_normal(count)
        while (beyond := np.abs(found) > 3).any():
            found[beyond] = random.standard_normal(beyond.sum())
        return found / 0.98658  # standard deviation after truncation at 3

    draw_wrong_noise(patch, draw)


def same_noise_every_round(patch):
    patch.setattr(
        app,
        "_simulated_noises",
        lambda request: [Reproducible(0, "noise", client) for client in request.clients],
    )


def noise_shared_by_two_clients(patch):
    patch.setattr(
        app,
        "_simulated_noises",
        lambda request: [
            Reproducible(request.round, request.federation, max(1, client))
            for client in request.clients
        ],
    )


def noise_repeated_over_rows(patch):
    real = privacy.add_noise

    def add(values, factor, step, stddev, noise):
        if values.ndim == 1:
            return real(values, factor, step, stddev, noise)
        row = real(np.zeros_like(values[0]), factor, step, stddev, noise)
        return (values * np.float32(factor) + row).astype(np.float32)

    patch.setattr(privacy, "add_noise", add)


def noise_divided_by_num_examples(patch):
    real = LocalDP.protect

    def protect(self, update, num_examples, noise):
        less = replace(self, noise=[stddev / num_examples for stddev in self.noise])
        return real(less, update, num_examples, noise)

    patch.setattr(LocalDP, "protect", protect)


def no_protection_on_the_compiled_path(patch):
    real = LocalTraining.protect
    patch.setattr(
        LocalTraining,
        "protect",
        lambda self, chunk, updates: None if self._multi_client else real(self, chunk, updates),
    )


def same_cohort_in_two_rounds(patch):
    real = Sampler.__call__
    known = {}

    def draw(self, server_round, *attempts):
        key = (self.federation, server_round // 2)
        if key not in known:
            known[key] = real(self, server_round, *attempts)
        return known[key]

    patch.setattr(Sampler, "__call__", draw)


def noise_without_correlation(patch):
    real = sum_noise.SumNoise.draw

    def draw(self, turn, stddev, noise):
        fresh = sum_noise.SumNoise(self._sizes, WHITE, None)
        return real(fresh, turn, stddev, noise)

    patch.setattr(sum_noise.SumNoise, "draw", draw)


def no_noise_on_the_count(patch):
    real = NoisedMean._adapt
    patch.setattr(NoisedMean, "_adapt", lambda self, norms, noise: real(self, norms, NoNoise()))


def dp_sgd_noise_on_one_tensor(patch):
    real = dp_sgd.standard_normal
    patch.setattr(
        dp_sgd,
        "standard_normal",
        lambda noise, shape: real(noise, shape) * np.float32(shape == (8, FEATURES)),
    )


def batches_of_fixed_size(patch):
    patch.setattr(
        dp_sgd,
        "poisson_batch",
        lambda count, rate, noise: torch.randperm(count)[: round(count * rate)],
    )


def same_batch_in_every_step(patch):
    patch.setattr(
        dp_sgd, "poisson_batch", lambda count, rate, noise: torch.arange(round(count * rate))
    )


@pytest.mark.parametrize(
    ("fault", "mechanism", "test"),
    [
        (clip_without_biases, "local", "clip"),
        (clip_without_biases, "layered", "clip"),
        (clip_without_biases, "central", "clip"),
        (no_noise_on_one_tensor, "local", "variance"),
        (uniform_noise, "local", "normality"),
        (uniform_noise, "central", "normality"),
        (truncated_noise, "local", "beyond 3 deviations"),
        (truncated_noise, "central_adaptive", "beyond 3 deviations"),
        (same_noise_every_round, "local", "rounds alike"),
        (noise_shared_by_two_clients, "layered", "clients alike"),
        (noise_repeated_over_rows, "local", "rows alike"),
        (noise_divided_by_num_examples, "local", "variance"),
        (no_protection_on_the_compiled_path, "local", "variance"),
        (same_cohort_in_two_rounds, "central", "overlap at lag 1"),
        (clip_without_biases, "central_matrix", "clip"),
        (uniform_noise, "central_matrix", "normality"),
        (clip_without_biases, "distributed", "clip"),
        (uniform_noise, "distributed", "beyond 3 deviations"),
        (noise_without_correlation, "central_matrix", "rounds alike"),
        (no_noise_on_the_count, "central_adaptive", "variance"),
        (dp_sgd_noise_on_one_tensor, "dp_sgd", "variance"),
        (batches_of_fixed_size, "dp_sgd", "spread of sizes"),
        (same_batch_in_every_step, "dp_sgd", "overlap at lag 1"),
    ],
)
def test_a_planted_fault_is_found(fault, mechanism, test, monkeypatch):
    monkeypatch.setattr(audit_noise, "MAX_ROUNDS", 60)  # these faults show in fewer samples
    fault(monkeypatch)
    found = audit(mechanism)
    assert found["violated"]
    assert test in failed(found)
