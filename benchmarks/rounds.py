"""Time a federated round and feature extraction; prints a table.

Run with ``make bench``. All rows do the same work on made-up data: 988-256-128-4, 26 training
utterances a client, batches of 20, one local epoch of Adam. The loop is bare PyTorch training
of the cohort; ``fedser-local`` adds what a study needs: messages, aggregation, transcript and
evaluation.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from client.app import app as client_app
from client.corpora.base import EMOTIONS
from client.corpora.synthetic import Synthetic
from client.features import OpenSmile, extract
from client.model import ModelConfig, initial_arrays
from client.speakers import Clients
from client.training import Examples, TrainingConfig, fedavg_update
from conf.schema import RuntimeConfig
from server.accountant import Accountant
from server.app import federate
from server.composition import Releases
from server.federation import AlgorithmConfig, Federation, Protocol
from server.grid import LocalGrid
from server.plan import PrivacyPlan
from server.privacy_config import PrivacyConfig
from server.run import compose, run_federations, study_config
from server.transcript import TranscriptConfig

FEATURES, TRAINING, HELD_OUT = 988, 26, 6


def made_up_clients(count: int) -> Clients:
    """Return clients with random features and labels."""
    rng = np.random.default_rng(0)
    total = count * (TRAINING + HELD_OUT)
    return Clients(
        rows=np.arange(total),
        features=rng.standard_normal((total, FEATURES), dtype=np.float32),
        labels=rng.integers(0, len(EMOTIONS), total),
        client=np.repeat(np.arange(count), TRAINING + HELD_OUT),
        validation=np.tile(np.arange(TRAINING + HELD_OUT) >= TRAINING, count),
        corpora=["made"] * count,
        speakers=[str(i) for i in range(count)],
    )


def loop_seconds(clients: Clients, cohort: int) -> float:
    """Train a cohort one client after another, without a server."""
    model = ModelConfig()
    start = initial_arrays(model, FEATURES, len(EMOTIONS), 0)
    own = [
        Examples(
            torch.from_numpy(clients.features[(clients.client == c) & ~clients.validation]),
            torch.from_numpy(clients.labels[(clients.client == c) & ~clients.validation]),
        )
        for c in range(cohort)
    ]
    began = time.perf_counter()
    for number, examples in enumerate(own):
        generator = torch.Generator().manual_seed(number)
        noise = np.random.default_rng(number)  # of no mechanism
        fedavg_update(model, start, examples, TrainingConfig(), generator, None, noise)
    return time.perf_counter() - began


def federation(clients: Clients, cohort: int, rounds: int, folder: Path) -> Federation:
    """Return a private federation over the clients, tested on their held-out utterances."""
    return Federation(
        name="private-fold0",
        role="private",
        fold=0,
        clients=clients,
        test=clients.validation_set(),
        protocol=Protocol(
            model=ModelConfig(),
            training=TrainingConfig(),
            algorithm=AlgorithmConfig("fedavg", 1.0),
            plan=PrivacyPlan(PrivacyConfig(), cohort / len(clients), rounds),
            transcript=TranscriptConfig(),
            seed=0,
        ),
        folder=folder,
    )


def round_seconds(clients: Clients, cohort: int, rounds: int, runtime: str) -> float:
    """Return the median time from one round's end to the next's, the first left out."""
    with tempfile.TemporaryDirectory() as name:
        study = federation(clients, cohort, rounds + 1, Path(name) / "transcript")
        if runtime == "local":
            outcome = federate(LocalGrid(client_app), study, Path(name), "cpu")
        else:
            (outcome,) = run_federations([study], RuntimeConfig("ray"))
    return statistics.median(r.seconds for r in outcome.rounds[1:])


def accounting_seconds(rounds: int) -> float:
    """Calibrate central noise to epsilon 8 and account for a run of so many rounds."""
    config = study_config(compose(["privacy=central_8"])).privacy
    began = time.perf_counter()
    plan = PrivacyPlan(config, 0.1, rounds, 70, (Releases(rounds, 0.1),))
    accountant = Accountant(plan, [TRAINING] * 70, range(70), 1, "fedavg", TrainingConfig())
    for server_round in range(rounds):
        accountant.add(range(server_round % 10, 70, 10))
        assert accountant.epsilon <= 8 and accountant.known_epsilon
    return time.perf_counter() - began


def extraction_speed(cache: Path) -> float:
    """Return how many seconds of speech a second of extraction handles."""
    corpus = Synthetic("bench", 1, "error", "en", 10, 24, 0)
    paths = [u.path for u in corpus.utterances(cache)]
    import soundfile

    duration = sum(soundfile.info(path).duration for path in paths)
    began = time.perf_counter()
    extract(OpenSmile("emobase", 16000), paths, cache)
    return duration / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="rounds a measurement")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    shown = Table(title="one federated round")
    for column in ("engine", "clients", "cohort", "ms a round", "ms a client", "to the loop"):
        shown.add_column(column, justify="left" if column == "engine" else "right")
    for count, cohort in ((70, 7), (1000, 100)):
        clients = made_up_clients(count)
        loop = statistics.median(loop_seconds(clients, cohort) for _ in range(5))
        timings = {"loop": loop}
        for runtime in ("local", "ray"):
            timings[f"fedser-{runtime}"] = round_seconds(clients, cohort, rounds, runtime)
        for engine, seconds in timings.items():
            cells = (1e3 * seconds, 1e3 * seconds / cohort, seconds / loop)
            shown.add_row(engine, str(count), str(cohort), *(f"{cell:.2f}" for cell in cells))
    console = Console()
    console.print(shown)
    rounds, folds = 200, 5
    spent = accounting_seconds(rounds)
    whole = folds * rounds * round_seconds(made_up_clients(70), 7, 30, "local")
    console.print(
        f"accounting of {rounds} central rounds: {spent:.2f} s, {100 * spent / whole:.1f} % of "
        f"training {folds} folds, which share it"
    )
    with tempfile.TemporaryDirectory() as cache:
        console.print(f"emobase extraction: {extraction_speed(Path(cache)):.0f} times real time")


if __name__ == "__main__":
    main()
