"""Run a networked study while its nodes and its server are killed or paused, and come back.

``python -m tests.network.soak --rounds 60 --server-kills 6 --seed 0`` runs one on this machine and
prints the result; a test runs a short one.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from fedser.common.processes import free_port
from fedser.conf.build import compose
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.federation.cohort import cohort_sampler
from fedser.server.study.run import study_config
from fedser.server.transcript.transcript import Transcript
from fedser.stages.study import run_study
from tests.network.compose import as_process, certify, services
from tests.network.corpus import divide_speakers

FRACTION = 0.5
SPEAKERS_PER_NODE = 2
NAME = "private-fold0"
HITS = ("all", "ours", "flower")
LOOK_SECONDS = 0.1
SETTLED = 4
"""Rounds of a process after which its memory must stay the same."""
LOST = ["rejected_missing", "rejected_failed"]
"""Reasons for a missing update if no node lies."""


@dataclass(frozen=True)
class Failure:
    """A failure of the server or a node, `delay` seconds after a round is announced.

    Attributes
    ----------
    kind : str
        ``kill`` (SIGKILL, and started again) or ``pause`` (SIGSTOP for `seconds`).
    party : str
        ``server``, or the name of a node.
    hits : str
        Which of the party's processes: ``all``, ``ours`` (Flower's ends by itself then) or
        ``flower`` (a SuperLink or SuperNode).
    """

    round: int
    delay: float
    kind: str
    party: str
    seconds: float = 0.0
    hits: str = "all"


def plan(
    rounds: int, server_kills: int, round_timeout: float, nodes: int, seed: int
) -> list[Failure]:
    """Draw the failures; none hits the server in the last third, or the last node."""
    rng = random.Random(seed)
    failures = [
        Failure(number, rng.uniform(0, 5), "kill", "server", hits=("all", "ours")[at % 2])
        for at, number in enumerate(sorted(rng.sample(range(2, 2 * rounds // 3), server_kills)))
    ]
    number = 1
    while (number := number + rng.randint(1, 3)) < rounds:
        party, delay = f"node-{rng.randrange(1, nodes)}", rng.uniform(0, 3)
        if rng.random() < 0.5:
            failures.append(Failure(number, delay, "kill", party, hits=rng.choice(HITS)))
        else:
            paused = round_timeout * rng.choice([0.4, 1.6])
            failures.append(Failure(number, delay, "pause", party, paused, rng.choice(HITS)))
    return sorted(failures, key=lambda failure: (failure.round, failure.delay))


class Party:
    """A process with its children; it is started again after it was killed."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.arguments, self._environment, self._folder = arguments, environment, folder
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments,
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def processes(self, hits: str = "all") -> list[psutil.Process]:
        """Return the processes that a failure hits."""
        with suppress(psutil.NoSuchProcess):
            ours = psutil.Process(self.process.pid)
            if hits == "ours":
                return [ours]
            children = ours.children(recursive=True)
            return [ours, *children] if hits == "all" else [p for p in children if is_flower(p)]
        return []

    def signal(self, number: int, hits: str = "all") -> None:
        for process in self.processes(hits):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self.process.wait()

    def log(self) -> str:
        return (self._folder / "log").read_text()


def node_with_cache(service: dict, secrets: dict, port: int, place: Path) -> Party:
    """Return a node as if it had run before: its features and its compiled code are kept."""
    command, environment = as_process(service, secrets, port, place)
    environment["FEDSER_CACHE"] = str(place.parent / "cache")
    del environment["NUMBA_CACHE_DIR"]
    return Party(command, environment, place)


@dataclass
class Soak:
    """A study over nodes with two speakers each, in a new folder.

    Attributes
    ----------
    nodes : int
        Number of nodes.
    utterances : int
        Utterances per speaker.
    memory : list of dict
        One row per round and process: ``round``, ``party``, ``program``, ``pid`` and ``MiB``.
    injected : list of Failure
        Failures so far.
    statuses : list of int
        Exit statuses of the server: 4 if it must be resumed, and 0 at the end.
    """

    folder: Path
    rounds: int
    round_timeout: float
    nodes: int
    utterances: int
    memory: list[dict] = field(default_factory=list)
    injected: list[Failure] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = self.folder / "run"
        certificates, port = self.folder / "certificates", free_port()
        speakers = self.folder / "speakers"
        speakers.mkdir(parents=True)
        divide_speakers(speakers, [SPEAKERS_PER_NODE] * self.nodes, self.utterances)
        certify(certificates, [SPEAKERS_PER_NODE] * self.nodes)
        described, secrets = services(
            {"FEDSER_SPEAKERS": str(speakers), "FEDSER_CERTIFICATES": str(certificates)}
        )
        self.study = [
            *("corpus=manifest", "corpus.name=mine", f"cache={self.folder / 'cache'}"),
            *(f"rounds={self.rounds}", "folds=[0]", f"cohort_fraction={FRACTION}"),
            *("stage=train", "transcript.layers=last"),
        ]
        self._server = Party(
            [
                *(sys.executable, "-m", "fedser", *self.study, "corpus.file=null"),
                *("runtime=network", f"runtime.address=localhost:{port}"),
                *(
                    f"runtime.certificates={certificates}",
                    f"runtime.round_timeout={self.round_timeout}",
                ),
                f"hydra.run.dir={self.run}",
            ],
            dict(os.environ),
            self.folder / "server",
        )
        self._parties = {"server": self._server}
        for number in range(1, self.nodes + 1):
            name = f"node-{number}"
            self._parties[name] = node_with_cache(
                described[name], secrets, port, self.folder / name
            )

    def simulate(self, seed: int) -> Path:
        """Run the same study undisturbed, with a seed, and return its folder."""
        folder = self.folder / f"simulated-{seed}"
        folder.mkdir()
        table = self.folder / "speakers" / "truth.csv"
        changed = [f"corpus.file={table}", "runtime=local", f"seed={seed}"]
        run_study(study_config(compose([*self.study, *changed])), {}, folder)
        return folder

    def run_to_end(self, failures: Sequence[Failure], limit: float) -> None:
        """Run the study to its end, and inject failures.

        Raises
        ------
        AssertionError
            If a process ends that was not killed, or if the study takes more than `limit` seconds.
        """
        self._deadline = time.monotonic() + limit
        try:
            for party in self._parties.values():
                party.start()
            self._inject(failures)
        finally:
            for party in self._parties.values():
                party.stop()

    def _inject(self, failures: Sequence[Failure]) -> None:
        coming, reached = list(failures), 0
        due: list[tuple[float, Failure]] = []
        paused: dict[str, float] = {}
        while not self._finished():
            announced = self._announced()
            if announced > reached:
                reached = announced
                self._measure(reached)
            now = time.monotonic()
            due += [
                (now + failure.delay, failure) for failure in coming if failure.round <= announced
            ]
            coming = [failure for failure in coming if failure.round > announced]
            for party in [name for name, until in paused.items() if until <= now]:
                self._parties[party].signal(signal.SIGCONT)
                del paused[party]
            for moment, failure in due:
                if moment <= now and failure.party not in paused:
                    self._hit(failure)
                    if failure.kind == "pause":
                        paused[failure.party] = now + failure.seconds
            due = [(moment, failure) for moment, failure in due if failure not in self.injected]
            time.sleep(LOOK_SECONDS)

    def _hit(self, failure: Failure) -> None:
        party = self._parties[failure.party]
        say(f"{failure.kind} {failure.party} ({failure.hits}) {failure.seconds:.1f}")
        self.injected.append(failure)
        if failure.kind == "pause":
            party.signal(signal.SIGSTOP, failure.hits)
            return
        party.signal(signal.SIGKILL, failure.hits)
        if failure.hits != "flower":
            party.process.wait()
            self._start_again(party)

    def _start_again(self, party: Party) -> None:
        if party is self._server and f"resume={self.run}" not in party.arguments:
            party.arguments = [*party.arguments[:-1], f"resume={self.run}"]
        party.start()

    def _finished(self) -> bool:
        for name, party in self._parties.items():
            if (status := party.process.poll()) is None:
                continue
            assert party is self._server and status in (0, 4), (name, status, party.log()[-3000:])
            self.statuses.append(status)
            if status == 0:
                return True
            say(f"suspended: {party.log().splitlines()[-1]}")
            self._start_again(party)
        assert time.monotonic() < self._deadline, self._server.log()[-3000:]
        return False

    def _announced(self) -> int:
        """Return the number of the last round in the journal."""
        journal = self.run / "checkpoint" / NAME / "journal.jsonl"
        with suppress(FileNotFoundError):
            if whole := journal.read_text().rpartition("\n")[0]:
                return int(json.loads(whole.rsplit("\n", 1)[-1])[0])
        return 0

    def _measure(self, number: int) -> None:
        shown: dict[str, list[str]] = defaultdict(list)
        for name, party in self._parties.items():
            for process in party.processes():
                with suppress(psutil.Error):
                    program = "Flower" if is_flower(process) else "ours"
                    found = {"round": number, "party": name, "program": program}
                    mib = process.memory_info().rss / 2**20
                    self.memory.append({**found, "pid": process.pid, "MiB": mib})
                    shown[name].append(f"{mib:.0f}")
        say(f"round {number}: " + ", ".join(f"{n} {'+'.join(m)}" for n, m in shown.items()))


def is_flower(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "flower-super" in " ".join(process.cmdline())
    return False


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def check(folder: Path, rounds: int) -> tuple[int, int]:
    """Check the ledger and the rounds of a run; return its releases, and those in the transcript.

    Each client of a cohort may have released one update in the round: it is in the transcript, or
    it is counted by the reason why it is missing.
    """
    table = pd.read_parquet(folder / "rounds.parquet")
    assert table["round"].tolist() == list(range(1, rounds + 1))
    transcript = Transcript(folder / "transcript" / NAME)
    models = [number for number, _ in transcript.global_models()]
    assert models == list(range(1, rounds + 2))
    received = Counter(
        (number, client)
        for part in transcript
        for number, client in zip(part.round.tolist(), part.client.tolist(), strict=True)
    )
    assert set(received.values()) == {1}
    clients = len(pd.read_parquet(folder / "truth.parquet"))
    draw = cohort_sampler(PrivacyConfig(), [""] * clients, FRACTION, 1, 0, NAME)
    drawn = {(number, client) for number in range(1, rounds + 1) for client in draw(number)}
    assert set(received) <= drawn
    ledger = pd.read_parquet(folder / "ledger.parquet")
    released = dict(zip(ledger["client"], ledger["releases"], strict=True))
    assert released == Counter(client for _, client in drawn)
    by_round = Counter(number for number, _ in received)
    assert [by_round[number] for number in range(1, rounds + 1)] == table["clients"].tolist()
    lost = len(drawn) - len(received)
    assert lost == table["rejected"].sum() == table[LOST].to_numpy().sum()
    return len(drawn), len(received)


def slopes(memory: Sequence[dict]) -> pd.DataFrame:
    """Fit MiB per round for each process that ran long enough, after the first rounds."""
    found = []
    for (party, program, _), rows in pd.DataFrame(memory).groupby(["party", "program", "pid"]):
        rows = rows.sort_values("round").iloc[SETTLED:]
        if len(rows) >= 2 * SETTLED:
            slope, _ = np.polyfit(rows["round"], rows["MiB"], 1)
            about = {"party": party, "program": program, "rounds": len(rows)}
            found.append({**about, "MiB": rows["MiB"].mean(), "slope": slope})
    return pd.DataFrame(found, columns=["party", "program", "rounds", "MiB", "slope"])


def uar_of(folder: Path) -> float:
    return float(json.loads((folder / "training.json").read_text())["utility"]["uar"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--server-kills", type=int, default=6)
    parser.add_argument("--round-timeout", type=float, default=15.0, help="seconds")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="to keep what it leaves")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedser-soak-") as kept:
        folder = (given.folder or Path(kept)) / "soak"
        soak = Soak(folder, given.rounds, given.round_timeout, given.nodes, 24)
        undisturbed = [uar_of(soak.simulate(seed)) for seed in range(3)]
        began = time.monotonic()
        failures = plan(
            given.rounds, given.server_kills, given.round_timeout, given.nodes, given.seed
        )
        soak.run_to_end(failures, limit=4 * 3600)
        seconds, injected = (
            time.monotonic() - began,
            f"{len(soak.injected)} of {len(failures)} failures",
        )
        say(f"finished after {seconds:.0f} s and {injected}, having ended with {soak.statuses}")
        table = pd.read_parquet(soak.run / "rounds.parquet")
        print(table[["round", "clients", "rejected", "seconds"]].to_string(index=False))
        released, there = check(soak.run, given.rounds)
        print(f"ledger: {released} releases, {there} in the transcript, the others counted as lost")
        print(slopes(soak.memory).to_string(index=False))
        print(f"test UAR {uar_of(soak.run):.3f}; undisturbed, seeds 0 to 2: {undisturbed}")


if __name__ == "__main__":
    main()
