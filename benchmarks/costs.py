"""Time what a study does besides rounds: privacy accounting and feature extraction.

Run with ``make bench``, after the rounds.
"""

import tempfile
import time
from pathlib import Path

import soundfile

from client.corpora.synthetic import Synthetic
from client.features import OpenSmile, extract
from client.training import TrainingConfig
from server.accountant import Accountant
from server.composition import Releases
from server.plan import PrivacyPlan
from server.run import compose, study_config

ROUNDS, CLIENTS, UTTERANCES = 200, 70, 26


def accounting_seconds() -> float:
    """Calibrate central noise to epsilon 8 and account for a run of 200 rounds."""
    config = study_config(compose(["privacy=central_8"])).privacy
    began = time.perf_counter()
    plan = PrivacyPlan(config, 0.1, ROUNDS, CLIENTS, (Releases(ROUNDS, 0.1),))
    accountant = Accountant(
        plan, [UTTERANCES] * CLIENTS, range(CLIENTS), 1, "fedavg", TrainingConfig()
    )
    for server_round in range(ROUNDS):
        accountant.add(range(server_round % 10, CLIENTS, 10))
        assert accountant.epsilon <= 8 and accountant.known_epsilon
    return time.perf_counter() - began


def extraction_speed(cache: Path) -> float:
    """Return how many seconds of speech a second of extraction handles."""
    corpus = Synthetic("bench", 1, "error", "en", 10, 24, 0)
    paths = [u.path for u in corpus.listing(cache).utterances]
    duration = sum(soundfile.info(path).duration for path in paths)
    began = time.perf_counter()
    extract(OpenSmile("emobase", 16000), paths, cache)
    return duration / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    print(f"accounting of {ROUNDS} central rounds: {accounting_seconds():.2f} s")
    with tempfile.TemporaryDirectory() as cache:
        print(f"emobase extraction: {extraction_speed(Path(cache)):.0f} times real time")


if __name__ == "__main__":
    main()
