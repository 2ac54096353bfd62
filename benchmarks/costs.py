"""Measure the work of a study outside of rounds: privacy accounting and feature extraction.

Run with ``make bench``, after the rounds.
"""

import os
import tempfile
import time
from pathlib import Path

import soundfile
from joblib.externals.loky import get_reusable_executor

from fedser.client.corpora.synthetic.corpus import Synthetic
from fedser.client.features.extract import extract
from fedser.conf.build import build, compose
from fedser.conf.training_keys import TrainingConfig
from fedser.server.privacy.accountant import Accountant
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.study.run import study_config

ROUNDS, CLIENTS, UTTERANCES = 200, 70, 26


def accounting_seconds() -> float:
    """Return the seconds to calibrate central noise and to account for a run of 200 rounds."""
    config = study_config(compose(["privacy=central_8"])).privacy
    began = time.perf_counter()
    plan = PrivacyPlan(config, 0.1, ROUNDS, CLIENTS, (Releases(ROUNDS, 0.1),))
    accountant = Accountant(
        *(plan, [UTTERANCES] * CLIENTS, [str(client) for client in range(CLIENTS)]),
        *(1, "fedavg", TrainingConfig()),
    )
    for server_round in range(ROUNDS):
        accountant.add(range(server_round % 10, CLIENTS, 10))
        assert accountant.epsilon is not None and accountant.epsilon <= 8
        assert accountant.known_epsilon
    return time.perf_counter() - began


def extraction_speed(features: str, paths: list[Path]) -> tuple[float, float]:
    """Return the seconds of speech extracted per second, and per second of processor time.

    Both include the start of the worker processes. The second number hardly depends on the other
    load of the machine.
    """
    extractor = build(compose([f"features={features}"]).features)
    duration = sum(soundfile.info(path).duration for path in paths)
    get_reusable_executor().shutdown(wait=True)  # end the workers of the previous features
    with tempfile.TemporaryDirectory() as cache:
        began, used = time.perf_counter(), sum(os.times()[:4])
        extract(extractor, paths, Path(cache))
        seconds = time.perf_counter() - began
        get_reusable_executor().shutdown(wait=True)  # only ended processes count
        return duration / seconds, duration / (sum(os.times()[:4]) - used)


def main() -> None:
    """Measure and print all costs."""
    print(f"accounting of {ROUNDS} central rounds: {accounting_seconds():.2f} s")
    with tempfile.TemporaryDirectory() as cache:
        corpus = Synthetic("bench", 1, "error", "en", 10, 24, 0)
        paths = [u.path for u in corpus.listing(Path(cache)).utterances]
        for features in ("emobase", "egemaps", "compare"):
            speed, core = extraction_speed(features, paths)
            print(f"{features} extraction: {speed:.0f} times real time, {core:.0f} per core")


if __name__ == "__main__":
    main()
