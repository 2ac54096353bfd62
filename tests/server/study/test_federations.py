import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from fedser import conf
from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.user_level import UserLevelDP
from fedser.common.errors import UserError
from fedser.conf.build import compose
from fedser.conf.schema import RuntimeConfig
from fedser.conf.training_keys import TrainingConfig
from fedser.server.federation.cohort import Sampler
from fedser.server.privacy.composition import Releases
from fedser.server.strategy.replies import REASONS
from fedser.server.study.federations import check_config, private_federations, write_training
from fedser.server.study.run import run_federations, study_config
from tests import examples
from tests.examples import corpus
from tests.server.privacy import privacy_loss

MECHANISMS = {
    "none": NoMechanism,
    "udp": UserLevelDP,
    "local": LocalDP,
    "layered": LocalDP,
    "central": CentralDP,
    "central_adaptive": CentralDP,
    "dp_sgd": DPSGD,
}
CALIBRATED = ("local", "layered", "central", "central_adaptive", "dp_sgd")


def study(*overrides):
    return study_config(compose(["rounds=30", "cohort_fraction=0.3", *overrides]))


def only(folder, *overrides, data=None):
    """The federation of one fold, fold 1."""
    data = data or corpus()
    (federation,) = private_federations(study(*overrides, "folds=[1]"), data, folder)
    return federation


def test_every_fold_holds_out_its_own_speakers(tmp_path):
    data = corpus(speakers=11)
    federations = private_federations(study("folds=[0,2,4]"), data, tmp_path)
    assert [f.name for f in federations] == ["private-fold0", "private-fold2", "private-fold4"]
    for federation in federations:
        held_out = set(data.speakers) - set(federation.clients.speakers)
        assert len(federation.test[1]) == 12 * len(held_out)
        assert federation.folder == tmp_path / "transcript" / federation.name


def test_every_file_of_the_privacy_group_makes_a_plan(tmp_path):
    files = {path.stem for path in (Path(conf.__file__).parent / "privacy").glob("*.yaml")}
    assert files == set(MECHANISMS)
    for name, mechanism in MECHANISMS.items():
        asked = [f"privacy={name}", *(["privacy.epsilon=8"] if name != "none" else [])]
        plan = only(tmp_path, *asked).protocol.plan
        assert plan.config.mechanism == name and plan.num_clients == 8
        assert isinstance(plan.client_mechanism(), mechanism)
        if name in CALIBRATED:
            spent = max(plan.epsilon(releases) for releases in plan.exposures)
            assert spent <= 8 and spent == pytest.approx(8, rel=1e-5)
        else:
            assert plan.noise_multiplier is None


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_mechanism_without_a_noise_is_refused_with_what_to_set(name):
    with pytest.raises(UserError, match=f"privacy={name} takes either privacy.epsilon or privacy"):
        study(f"privacy={name}")
    assert study(f"privacy={name}", "privacy.noise_multiplier=2").privacy.noise_multiplier == 2


@pytest.mark.parametrize("unit", ["client", "speaker"])
def test_noise_is_calibrated_to_the_busiest_unit_of_the_schedule(tmp_path, unit):
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
def test_sums_are_planned_for_over_the_cohorts_that_will_be_drawn(tmp_path, unit):
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
def test_outsiders_are_planned_for_by_rounds_and_secret_cohorts(tmp_path, unit, clients):
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


def test_batches_are_planned_for_with_every_clients_own_rate(tmp_path):
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


def test_layers_that_are_not_shared_are_named_out(tmp_path):
    for name in ("local", "central"):
        federation = only(
            tmp_path, f"privacy={name}", "privacy.noise_multiplier=1", "privacy.layers=last"
        )
        shared = federation.protocol.plan.shared
        assert shared == {"dense.2.weight": 4 * 128, "dense.2.bias": 4}
    with pytest.raises(UserError, match=r"privacy\.layer_shares names 3 layers, 1 are shared"):
        study("privacy=layered", "privacy.epsilon=8", "privacy.layers=last")


def test_a_plan_knows_how_many_coordinates_are_shared(tmp_path):
    shared = only(tmp_path, "privacy=layered", "privacy.epsilon=8").protocol.plan.shared
    assert list(shared.values()) == [12 * 256, 256, 256 * 128, 128, 128 * 4, 4]


CROSS_VALIDATED = [
    ("privacy=local", "privacy.noise_multiplier=6"),
    ("privacy=local", "privacy.noise_multiplier=6", "privacy.unit=speaker"),
    ("privacy=layered", "privacy.epsilon=8", "privacy.relation=zero_out"),
    ("privacy=central", "privacy.noise_multiplier=2"),
    ("privacy=central", "privacy.epsilon=8", "privacy.unit=speaker"),
    ("privacy=central", "privacy.epsilon=8", "privacy.vantage=sum", "privacy.relation=zero_out"),
    (
        "privacy=central",
        "privacy.noise_multiplier=3",
        "privacy.vantage=sum",
        "privacy.relation=replace_one",
        "privacy.unit=speaker",
    ),
    ("privacy=central_adaptive", "privacy.epsilon=4"),
    ("privacy=dp_sgd", "privacy.noise_multiplier=1", "training.batch_size=4"),
    ("privacy=dp_sgd", "privacy.epsilon=6", "training.batch_size=2", "training.epochs=2"),
    ("privacy=central", "privacy.noise_multiplier=1.5", "privacy.accountant=prv"),
    ("privacy=central", "privacy.noise_multiplier=1", "privacy.delta=1e-7"),
    ("privacy=central_adaptive", "privacy.noise_multiplier=3", "privacy.unit=speaker"),
    ("privacy=local", "privacy.epsilon=1", "privacy.unit=speaker", "privacy.delta=1e-6"),
    ("privacy=layered", "privacy.noise_multiplier=9", "privacy.unit=speaker"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Five folds of a study, run and written, by the study's overrides."""

    @cache
    def train(*overrides):
        folder = tmp_path_factory.mktemp("run")
        config = study("rounds=6", *overrides, "folds=[0,1,2,3,4]")
        data = corpus(shards=2)
        federations = private_federations(config, data, folder)
        outcomes = run_federations(federations, RuntimeConfig("local"))
        write_training(folder, data, outcomes, "speaker", 1.0)
        return (
            config,
            outcomes,
            json.loads((folder / "training.json").read_text())["privacy"],
            folder,
        )

    return train


def composed_from_files(config, outcomes, folder, one=False):
    """Epsilon of the worst unit, from the ledger's file and an accountant of the tests' own."""
    privacy, ledger = config.privacy, pd.read_parquet(folder / "ledger.parquet")
    rounds = pd.read_parquet(folder / "rounds.parquet").groupby("federation")["round"].max()
    sizes = {o.federation.name: o.federation.clients.sizes() for o in outcomes}
    noise = outcomes[0].federation.protocol.plan.noise_multiplier
    found = set()
    for _, own in ledger.groupby(["unit", "federation"] if one else "unit"):
        if privacy.unit == "utterance":
            updates = [(int(sizes[r.federation][r.client]), r.releases) for r in own.itertuples()]
            (size,) = {size for size, _ in updates}  # a client has it in every fold
            total = sum(releases for _, releases in updates)
            batch, epochs = config.training.batch_size, config.training.epochs
            steps = total * epochs * -(-size // batch)
            found.add((min(1, batch / size), 1, steps, noise))
        else:
            clients = int(own.groupby("federation")["client"].nunique().max())
            found.add((0.3, clients, int(rounds[own["federation"].unique()].sum()), noise))
    return max(privacy_loss.epsilon([group], privacy.delta) for group in found)


@pytest.mark.parametrize("overrides", CROSS_VALIDATED, ids=" ".join)
def test_epsilon_of_a_run_composes_all_its_folds(trained, overrides):
    config, outcomes, said, folder = trained(*overrides)
    if config.privacy.vantage == "outsider" or config.privacy.unit == "utterance":
        expected = composed_from_files(config, outcomes, folder)
        alone = composed_from_files(config, outcomes, folder, one=True)
    else:
        expected, alone = exact_from_cohorts(outcomes), exact_from_cohorts(outcomes, one=True)
    assert said["epsilon"] == pytest.approx(expected, rel=5e-3)
    assert said["epsilon_one_federation"] == pytest.approx(alone, rel=5e-3)
    assert said["epsilon"] > 1.3 * said["epsilon_one_federation"]
    if config.privacy.epsilon is not None:
        assert said["epsilon"] <= config.privacy.epsilon
        assert said["epsilon"] == pytest.approx(config.privacy.epsilon, rel=1e-4)


def exact_from_cohorts(outcomes, one=False):
    """Epsilon of the worst unit under known participation, from the transcripts."""
    plan = outcomes[0].federation.protocol.plan
    squared = Counter()
    for outcome in outcomes:
        made = outcome.federation
        units = made.clients.units(plan.config.unit)
        for server_round in range(1, 7):
            held = Counter(units[client] for client in made.sampler(server_round))
            for unit, clients in held.items():
                key = (unit, made.name) if one else unit
                squared[key] += clients**2 if plan.central else clients
    mu = math.sqrt(max(squared.values())) / plan.noise_multiplier
    return privacy_loss.gaussian_epsilon(mu, plan.config.delta)


@pytest.mark.parametrize("overrides", CROSS_VALIDATED[:4], ids=" ".join)
def test_epsilon_of_an_evaluation_is_that_of_one_fold(trained, overrides):
    _, _, together, _ = trained(*overrides)
    _, _, said, folder = trained(*overrides, "privacy.cross_validation=evaluation")
    assert said["epsilon"] == said["epsilon_one_federation"]
    if any("epsilon" in override for override in overrides):  # calibrated to it anew
        assert said["noise_multiplier"] < 0.75 * together["noise_multiplier"]
    else:
        assert said["epsilon"] < together["epsilon"]
    assert any("Declared: cross-validation" in line for line in said["warnings"])
    with safe_open(folder / "model.safetensors", framework="numpy") as models:
        assert {name.split(".")[0] for name in models.keys()} == {"fold0"}  # noqa: SIM118


@pytest.mark.parametrize("overrides", CROSS_VALIDATED, ids=" ".join)
def test_a_run_of_five_folds_stops_before_its_limit(trained, overrides):
    free = trained(*overrides)[2]["epsilon"]
    limit = round(0.6 * free, 3)
    _, outcomes, said, _ = trained(*overrides, f"privacy.stop_at_epsilon={limit}")
    assert said["epsilon"] <= limit
    assert all(len(outcome.rounds) < 6 for outcome in outcomes)


def test_the_ledger_names_units_alike_in_all_folds(trained):
    _, outcomes, said, folder = trained(*CROSS_VALIDATED[0])
    ledger = pd.read_parquet(folder / "ledger.parquet")
    assert list(ledger) == ["federation", "client", "unit", "releases"]
    for outcome in outcomes:
        own = ledger[ledger["federation"] == outcome.federation.name].set_index("client")
        speakers = outcome.federation.clients.speakers
        for client, row in own.iterrows():
            assert row["unit"] == f"made/{speakers[client]}/{client % 2}"
            assert row["releases"] == outcome.releases[client]
    assert said["releases_max"] == ledger.groupby("unit")["releases"].sum().max()
    assert said["units"] == 20


def test_every_reason_of_a_rejection_is_a_column_of_the_rounds(tmp_path):
    made = examples.federation(tmp_path / "transcript")
    (outcome,) = run_federations([made], RuntimeConfig("local"))
    outcome.rounds[2] = replace(outcome.rounds[2], rejections={"dtype": 2, "duplicate": 1})
    write_training(tmp_path, corpus(), [outcome], "speaker", 1.0)
    rounds = pd.read_parquet(tmp_path / "rounds.parquet")
    columns = [name for name in rounds if name.startswith("rejected_")]
    assert columns == [f"rejected_{reason}" for reason in REASONS] and "rejections" not in rounds
    assert rounds["rejected_dtype"].tolist() == [0, 0, 2, 0]
    assert rounds[columns].to_numpy().sum() == 3


def test_runtime_keys_reach_each_federation(tmp_path):
    made = only(tmp_path, "runtime.min_clients=3", "runtime.round_timeout=90")
    assert (made.min_clients, made.round_timeout, made.checkpoint_every) == (3, 90.0, 1)


def test_the_seed_and_nothing_else_decides_the_plan(tmp_path):
    one, again, other = (
        only(tmp_path, "privacy=local", "privacy.epsilon=8", f"seed={seed}").protocol.plan
        for seed in (3, 3, 4)
    )
    assert one == again and one.noise_multiplier == again.noise_multiplier
    assert np.isfinite(other.noise_multiplier)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalisation": "median"}, "normalisation=median is not one of speaker, corpus, none"),
        ({"cohort_fraction": 0.0}, "cohort_fraction=0.0 must lie in"),
        ({"folds": []}, "folds=.* must be a list of numbers from 0 to 4"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"training": TrainingConfig(engine="gpu")}, "training.engine=gpu is not one of stacked"),
    ],
)
def test_values_that_types_cannot_refuse_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        check_config(replace(study(), **change))
