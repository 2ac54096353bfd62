from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedser import conf
from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.distributed import DistributedDP
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.user_level import UserLevelDP
from fedser.common.errors import UserError
from fedser.conf.build import compose
from fedser.server.federation.cohort import Sampler
from fedser.server.privacy.composition import Releases
from fedser.server.study.federations import private_federations
from fedser.server.study.run import study_config
from tests.examples import corpus

MECHANISMS = {
    "none": NoMechanism,
    "udp": UserLevelDP,
    "local": LocalDP,
    "layered": LocalDP,
    "central": CentralDP,
    "central_adaptive": CentralDP,
    "central_matrix": CentralDP,
    "distributed": DistributedDP,
    "dp_sgd": DPSGD,
}
CALIBRATED = tuple(name for name in MECHANISMS if name not in ("none", "udp"))


def study(*overrides):
    return study_config(compose(["rounds=30", "cohort_fraction=0.3", *overrides]))


def only(folder, *overrides, data=None):
    """Return the federation of fold 1."""
    data = data or corpus()
    (federation,) = private_federations(study(*overrides, "folds=[1]"), data, folder)
    return federation


def test_each_fold_holds_out_its_own_speakers(tmp_path):
    data = corpus(speakers=11)
    federations = private_federations(study("folds=[0,2,4]"), data, tmp_path)
    assert [f.name for f in federations] == ["private-fold0", "private-fold2", "private-fold4"]
    for federation in federations:
        held_out = set(data.speakers) - set(federation.clients.speakers)
        assert len(federation.test[1]) == 12 * len(held_out)
        assert federation.folder == tmp_path / "transcript" / federation.name


def test_each_option_of_the_privacy_group_makes_a_plan(tmp_path):
    files = {path.stem for path in (Path(conf.__file__).parent / "privacy").glob("*.yaml")}
    assert files == set(MECHANISMS)
    for name, mechanism in MECHANISMS.items():
        asked = [f"privacy={name}", *(["privacy.epsilon=8"] if name != "none" else [])]
        plan = only(tmp_path, *asked, "cohort_fraction=0.5").protocol.plan
        assert plan.config.mechanism == name and plan.num_clients == 8
        assert isinstance(plan.client_mechanism(), mechanism)
        if name in CALIBRATED:
            spent = max(plan.epsilon(releases) for releases in plan.exposures)
            assert spent <= 8 and spent == pytest.approx(8, rel=1e-5)
        else:
            assert plan.noise_multiplier is None


def test_folds_that_take_turns_do_not_stop_together(tmp_path):
    asked = study("privacy=central_matrix_8", "privacy.stop_at_epsilon=5", "folds=[0,1]")
    with pytest.raises(UserError, match="privacy.stop_at_epsilon: .* train one fold"):
        private_federations(asked, corpus(), tmp_path)
    only(tmp_path, "privacy=central_matrix_8", "privacy.stop_at_epsilon=5")


@pytest.mark.parametrize("unit", ["client", "speaker"])
def test_noise_is_calibrated_to_the_unit_with_most_releases(tmp_path, unit):
    federation = only(
        tmp_path,
        "privacy=local",
        "privacy.epsilon=8",
        f"privacy.unit={unit}",
        data=corpus(shards=2),
    )
    sampler = Sampler(16, 0.3, 0, "private-fold1")
    taken = Counter()
    for server_round in range(1, 31):
        for client in sampler(server_round):
            taken[federation.clients.speakers[client] if unit == "speaker" else client] += 1
    assert federation.protocol.plan.exposures == (Releases(max(taken.values())),)
    assert federation.sampler == sampler


@pytest.mark.parametrize("unit", ["client", "speaker"])
def test_noise_on_sums_is_planned_for_the_cohorts_drawn(tmp_path, unit):
    federation = only(
        tmp_path,
        "privacy=central",
        "privacy.epsilon=8",
        "privacy.vantage=sum",
        "privacy.relation=zero_out",
        f"privacy.unit={unit}",
        data=corpus(shards=2),
    )
    assert federation.sampler == Sampler(16, 0.3, 0, "private-fold1", poisson=True)
    owners = federation.clients.units(unit)
    squares = Counter()
    for server_round in range(1, 31):
        drawn = Counter(owners[client] for client in federation.sampler(server_round))
        squares.update({owner: count**2 for owner, count in drawn.items()})
    assert federation.protocol.plan.exposures == (Releases(max(squares.values())),)


@pytest.mark.parametrize(("unit", "clients"), [("client", 1), ("speaker", 2)])
def test_secret_cohorts_are_planned_for_by_rounds_and_rate(tmp_path, unit, clients):
    federation = only(
        tmp_path,
        "privacy=central",
        "privacy.noise_multiplier=4",
        f"privacy.unit={unit}",
        data=corpus(shards=2),
    )
    assert federation.protocol.plan.exposures == (Releases(30, 0.3, clients),)
    assert federation.sampler == Sampler(16, 0.3, None, "private-fold1", True, hidden=True)
    assert federation.protocol.plan.expected_cohort == pytest.approx(0.3 * 16)


def test_batches_are_planned_for_with_each_clients_own_rate(tmp_path):
    federation = only(
        tmp_path, "privacy=dp_sgd", "privacy.noise_multiplier=1", "training.batch_size=4"
    )
    taken = Counter(c for r in range(1, 31) for c in federation.sampler(r))
    sizes = federation.clients.sizes()
    expected = {Releases(taken[c] * -(-int(sizes[c]) // 4), 4 / int(sizes[c])) for c in taken}
    assert set(federation.protocol.plan.exposures) <= expected
    for release in expected:  # the worst of each rate
        counts = [r.count for r in federation.protocol.plan.exposures if r.rate == release.rate]
        assert max(counts) >= release.count


def test_layers_that_are_not_shared_are_not_in_the_plan(tmp_path):
    for name in ("local", "central"):
        federation = only(
            tmp_path, f"privacy={name}", "privacy.noise_multiplier=1", "privacy.layers=last"
        )
        shared = federation.protocol.plan.shared
        assert shared == {"dense.2.weight": 4 * 128, "dense.2.bias": 4}
    with pytest.raises(UserError, match=r"privacy\.layer_shares names 3 layers, 1 are shared"):
        study("privacy=layered", "privacy.epsilon=8", "privacy.layers=last")


def test_a_plan_counts_the_shared_coordinates(tmp_path):
    shared = only(tmp_path, "privacy=layered", "privacy.epsilon=8").protocol.plan.shared
    assert list(shared.values()) == [12 * 256, 256, 256 * 128, 128, 128 * 4, 4]


def test_runtime_keys_reach_each_federation(tmp_path):
    made = only(tmp_path, "runtime.min_clients=3", "runtime.round_timeout=90")
    assert (made.min_clients, made.round_timeout, made.checkpoint_every) == (3, 90.0, 1)


def test_one_seed_gives_one_plan(tmp_path):
    one, again, other = (
        only(tmp_path, "privacy=local", "privacy.epsilon=8", f"seed={seed}").protocol.plan
        for seed in (3, 3, 4)
    )
    assert one == again and one.noise_multiplier == again.noise_multiplier
    assert np.isfinite(other.noise_multiplier)
