"""A small study that kills its own process at a named moment, as `kill -9` does.

``python -m tests.server.rounds.killed PRIVACY FOLDER MOMENT [PRIVACY FOLDER MOMENT ...]`` runs or
resumes one study after another, each in a fork.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fedser.client.training.engine import LocalTraining
from fedser.common import files as disk
from fedser.common.run_folder import alone
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import RuntimeConfig
from fedser.server.federation.federation import Federation, Outcome
from fedser.server.privacy.composition import Releases
from fedser.server.rounds.bookkeeping import Recorder
from fedser.server.rounds.checkpoint import Checkpoint
from fedser.server.strategy.aggregate import NoisedMean, WeightedMean
from fedser.server.study import files as study_files
from fedser.server.study.federations import CHECKPOINTS
from fedser.server.study.run import run_federations
from fedser.server.transcript.writer import TranscriptWriter
from tests import examples

NAME, ROUNDS, FATAL = "private-fold0", 6, 4
SECRET = {"reproducible_noise": False}
PRIVACY = {
    "none": PrivacyConfig(),
    "local": replace(examples.LOCAL, **SECRET),
    "adaptive": replace(examples.ADAPTIVE, **SECRET),
    "udp": examples.UDP,
}


def federation(folder: Path, privacy: PrivacyConfig) -> Federation:
    rate = 0.4 if privacy.vantage == "outsider" else 1.0
    made = examples.federation(
        folder / "transcript", rounds=ROUNDS, privacy=privacy, exposures=(Releases(ROUNDS, rate),)
    )
    return replace(made, checkpoint=folder / CHECKPOINTS / made.name)


def train(folder: Path, privacy: PrivacyConfig) -> Outcome:
    """Run or resume the study, and write its results."""
    with alone(folder):
        (outcome,) = run_federations([federation(folder, privacy)], RuntimeConfig("local"))
        study_files.write_training(folder, examples.corpus(), [outcome], "speaker", 1.0)
        return outcome


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """Kill this process before a function is called, if `when` is true for the call."""
    original = getattr(owner, name)

    def fatal(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            die()
        return original(*args, **kwargs)

    setattr(owner, name, fatal)


def after(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """Kill this process after a function was called, if `when` is true for the call."""
    original = getattr(owner, name)

    def fatal(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if when(*args):
            die()
        return result

    setattr(owner, name, fatal)


def halfway(when: Callable[[Path], bool]) -> None:
    """Kill this process when half of a file is written."""
    original = Path.write_bytes

    def fatal(path: Path, data: bytes) -> int:
        if when(path):
            original(path, data[: len(data) // 2])
            die()
        return original(path, data)

    Path.write_bytes = fatal  # type: ignore[assignment, method-assign]


def replacing_when(when: Callable[[Path], bool]) -> None:
    """Kill this process before a complete file is renamed to its place."""
    before(disk.os, "replace", lambda _, path: when(Path(path)))


def in_round(fatal: int) -> Callable[..., bool]:
    """Return a condition that is true at the call with the number `fatal`."""
    calls = iter(range(1, 1000))
    return lambda *_: next(calls) == fatal


def half_a_line(fatal: int) -> None:
    original = Checkpoint.announce

    def announce(self: Checkpoint, server_round: int, cohort: list[int], durably: bool) -> None:
        original(self, server_round, cohort, durably)
        if server_round == fatal:
            os.truncate(self._journal, self._journal.stat().st_size - 3)
            die()

    Checkpoint.announce = announce  # type: ignore[method-assign, assignment]


def is_state(path: Path, *_: Any) -> bool:
    return Path(path).parent.parent.name == CHECKPOINTS


def is_last(kind: str) -> Callable[..., bool]:
    name = f"{kind}-{FATAL - 1:05d}"
    return lambda path, *_: Path(path).name.startswith(name)


MOMENTS: dict[str, Callable[[], None]] = {
    "before the first round": lambda: before(Checkpoint, "announce"),
    "in the first round": lambda: before(LocalTraining, "protect"),
    "a line of the journal half written": lambda: half_a_line(FATAL),
    "after the round was announced": lambda: after(
        Checkpoint, "announce", lambda self, number, *_: number == FATAL
    ),
    "while clients train": lambda: after(
        LocalTraining, "__init__", lambda self, task: task.stream == (NAME, FATAL)
    ),
    "before aggregation": lambda: [
        before(kind, "__call__", lambda self, number, *_: number == FATAL)
        for kind in (NoisedMean, WeightedMean)
    ],
    "after aggregation": lambda: [
        after(kind, "__call__", lambda self, number, *_: number == FATAL)
        for kind in (NoisedMean, WeightedMean)
    ],
    "after the round was recorded": lambda: after(
        Recorder, "record", lambda self, number, *_: number == FATAL
    ),
    "before updates are in their place": lambda: replacing_when(is_last("updates")),
    "updates written, the model not": lambda: replacing_when(is_last("globals")),
    "before the checkpoint": lambda: before(Checkpoint, "save", in_round(FATAL)),
    "the checkpoint half written": lambda: halfway(both(is_state, in_round(FATAL))),
    "the checkpoint not in its place": lambda: replacing_when(both(is_state, in_round(FATAL))),
    "after the checkpoint": lambda: after(Checkpoint, "save", in_round(FATAL)),
    "before the last model": lambda: before(
        TranscriptWriter, "record_model", lambda self, number, *_: number == ROUNDS + 1
    ),
    "before the tables": lambda: replacing_when(lambda path: path.name == "rounds.parquet"),
    "between the tables": lambda: replacing_when(lambda path: path.name == "ledger.parquet"),
    "before training.json": lambda: replacing_when(lambda path: path.name == "training.json"),
    "before checkpoints are removed": lambda: before(study_files, "remove_checkpoints"),
}


def both(one: Callable[..., bool], other: Callable[..., bool]) -> Callable[..., bool]:
    return lambda *args: one(*args) and other(*args)


@contextmanager
def silent() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
        yield


def main(*tasks: str) -> None:
    torch.set_num_threads(1)  # a fork has none of the threads of this process
    with TemporaryDirectory() as folder:  # what a study imports is then there in every fork
        train(Path(folder), PRIVACY["none"])
    for name, folder, moment in zip(tasks[::3], tasks[1::3], tasks[2::3], strict=True):
        child = os.fork()
        if not child:
            with silent():
                Path(folder).mkdir(parents=True, exist_ok=True)
                MOMENTS[moment]()
                train(Path(folder), PRIVACY[name])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit(f"not killed {moment}: status {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
