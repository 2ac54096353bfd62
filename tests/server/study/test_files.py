"""Files that training leaves: epsilon over all folds, the ledger, the models and the rounds."""

import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
from safetensors import safe_open

from fedser.conf.build import compose
from fedser.conf.schema import RuntimeConfig
from fedser.server.strategy.replies import REASONS
from fedser.server.study.federations import CHECKPOINTS, private_federations
from fedser.server.study.files import remove_checkpoints, write_training
from fedser.server.study.run import run_federations, study_config
from tests import examples
from tests.examples import corpus
from tests.server.privacy import privacy_loss

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
    """A function that trains five folds of a study and writes the files; it caches the results."""

    @cache
    def train(*overrides):
        folder = tmp_path_factory.mktemp("run")
        config = study_config(compose(["rounds=6", "cohort_fraction=0.3", *overrides]))
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
    """Return epsilon of the worst unit, from the ledger's file and the tests' own accountant."""
    privacy, ledger = config.privacy, pd.read_parquet(folder / "ledger.parquet")
    rounds = pd.read_parquet(folder / "rounds.parquet").groupby("federation")["round"].max()
    sizes = {o.federation.name: o.federation.clients.sizes() for o in outcomes}
    noise = outcomes[0].federation.protocol.plan.noise_multiplier
    found = set()
    for _, own in ledger.groupby(["unit", "federation"] if one else "unit"):
        if privacy.unit == "utterance":
            updates = [(int(sizes[r.federation][r.client]), r.releases) for r in own.itertuples()]
            (size,) = {size for size, _ in updates}  # a client has one size in all folds
            total = sum(releases for _, releases in updates)
            batch, epochs = config.training.batch_size, config.training.epochs
            steps = total * epochs * -(-size // batch)
            found.add((min(1, batch / size), 1, steps, noise))
        else:
            clients = int(own.groupby("federation")["client"].nunique().max())
            found.add((0.3, clients, int(rounds[own["federation"].unique()].sum()), noise))
    most: dict[tuple[float, int, float], int] = {}  # more releases of the same kind spend more
    for rate, clients, count, noise in found:
        most[rate, clients, noise] = max(count, most.get((rate, clients, noise), 0))
    worst = [(rate, clients, count, noise) for (rate, clients, noise), count in most.items()]
    return max(privacy_loss.epsilon([group], privacy.delta) for group in worst)


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
    """Return epsilon of the worst unit if participation is known, from the drawn cohorts."""
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
def test_epsilon_of_an_evaluation_is_the_epsilon_of_one_fold(trained, overrides):
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


def test_a_unit_has_one_name_in_the_ledger_of_all_folds(trained):
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


def test_each_reason_of_a_rejection_is_a_column_of_rounds(tmp_path):
    made = examples.federation(tmp_path / "transcript")
    (outcome,) = run_federations([made], RuntimeConfig("local"))
    outcome.rounds[2] = replace(outcome.rounds[2], rejections={"dtype": 2, "duplicate": 1})
    write_training(tmp_path, corpus(), [outcome], "speaker", 1.0)
    rounds = pd.read_parquet(tmp_path / "rounds.parquet")
    columns = [name for name in rounds if name.startswith("rejected_")]
    assert columns == [f"rejected_{reason}" for reason in REASONS] and "rejections" not in rounds
    assert rounds["rejected_dtype"].tolist() == [0, 0, 2, 0]
    assert rounds[columns].to_numpy().sum() == 3


def test_checkpoints_that_cannot_be_removed_are_no_silent_loss(tmp_path, monkeypatch):
    remove_checkpoints(tmp_path)  # there are none
    (tmp_path / CHECKPOINTS).mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(PermissionError, match=CHECKPOINTS):  # the noise would stay on the disk
        remove_checkpoints(tmp_path)
