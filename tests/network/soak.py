"""A networked study whose nodes and server are killed and held up, and come back.

``python -m tests.network.soak --rounds 60 --server-kills 6 --seed 0`` runs one on this machine and
prints what became of it; a test runs a short one.
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
from tests import ROOT
from tests.network.compose import as_process, services
from tests.network.corpus import deal_out

NODES, SPEAKERS, FRACTION = 4, 8, 0.5
NAME = "private-fold0"
HITS = ("all", "ours", "flower")
LOOK_SECONDS = 0.1
SETTLED = 4
"""Rounds of a process, after which its memory is to stay as it is."""
LOST = ["rejected_missing", "rejected_failed"]
"""Why an update may be absent where nobody lies."""


@dataclass(frozen=True)
class Blow:
    """What befalls the server or a node, so many seconds after a round was announced.

    Attributes
    ----------
    kind : str
        ``kill`` (SIGKILL, and started again) or ``hold`` (SIGSTOP for so many seconds).
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


def plan(rounds: int, server_kills: int, round_timeout: float, seed: int) -> list[Blow]:
    """Draw what is to happen: the server is left alone in the last third, as one node always is."""
    rng = random.Random(seed)
    blows = [
        Blow(number, rng.uniform(0, 5), "kill", "server", hits=("all", "ours")[at % 2])
        for at, number in enumerate(sorted(rng.sample(range(2, 2 * rounds // 3), server_kills)))
    ]
    number = 1
    while (number := number + rng.randint(1, 3)) < rounds:
        party, delay = f"node-{rng.randrange(1, NODES)}", rng.uniform(0, 3)
        if rng.random() < 0.5:
            blows.append(Blow(number, delay, "kill", party, hits=rng.choice(HITS)))
        else:
            held = round_timeout * rng.choice([0.4, 1.6])
            blows.append(Blow(number, delay, "hold", party, held, rng.choice(HITS)))
    return sorted(blows, key=lambda blow: (blow.round, blow.delay))


class Party:
    """A process with its children, started again whenever it was killed."""

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
        """Return those that a blow hits."""
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


@dataclass
class Soak:
    """A study at nodes of two speakers each, in a folder that is not there yet.

    Attributes
    ----------
    utterances : int
        Of each speaker.
    memory : list of dict
        A row a round and process: ``round``, ``party``, ``program``, ``pid`` and ``MiB``.
    struck : list of Blow
        What has befallen whom.
    statuses : list of int
        With what the server ended by itself: 4 if it was to be resumed, and 0 in the end.
    """

    folder: Path
    rounds: int
    round_timeout: float
    utterances: int
    memory: list[dict] = field(default_factory=list)
    struck: list[Blow] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = self.folder / "run"
        certificates, port = self.folder / "certificates", free_port()
        speakers = self.folder / "speakers"
        speakers.mkdir(parents=True)
        deal_out(speakers, SPEAKERS, NODES, self.utterances)
        make = [ROOT / "docker" / "certificates.sh", certificates, str(NODES)]
        subprocess.run(make, check=True, capture_output=True)
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
        for number in range(1, NODES + 1):
            name = f"node-{number}"
            place = self.folder / name
            command, environment = as_process(described[name], secrets, port, place)
            environment["FEDSER_CACHE"] = str(self.folder / "cache")  # as if it had started before
            self._parties[name] = Party(command, environment, place)

    def simulate(self, seed: int) -> Path:
        """Run the same study undisturbed, with a seed, and return its folder."""
        folder = self.folder / f"simulated-{seed}"
        folder.mkdir()
        table = self.folder / "speakers" / "truth.csv"
        changed = [f"corpus.file={table}", "runtime=local", f"seed={seed}"]
        run_study(study_config(compose([*self.study, *changed])), {}, folder)
        return folder

    def go(self, blows: Sequence[Blow], limit: float) -> None:
        """Run the study to its end, and meanwhile strike.

        Raises
        ------
        AssertionError
            If a process ends that nobody killed, or so many seconds do not suffice.
        """
        self._deadline = time.monotonic() + limit
        try:
            for party in self._parties.values():
                party.start()
            self._strike(blows)
        finally:
            for party in self._parties.values():
                party.stop()

    def _strike(self, blows: Sequence[Blow]) -> None:
        coming, reached = list(blows), 0
        due: list[tuple[float, Blow]] = []
        held: dict[str, float] = {}
        while not self._finished():
            announced = self._announced()
            if announced > reached:
                reached = announced
                self._measure(reached)
            now = time.monotonic()
            due += [(now + blow.delay, blow) for blow in coming if blow.round <= announced]
            coming = [blow for blow in coming if blow.round > announced]
            for party in [name for name, until in held.items() if until <= now]:
                self._parties[party].signal(signal.SIGCONT)
                del held[party]
            for moment, blow in due:
                if moment <= now and blow.party not in held:
                    self._hit(blow)
                    if blow.kind == "hold":
                        held[blow.party] = now + blow.seconds
            due = [(moment, blow) for moment, blow in due if blow not in self.struck]
            time.sleep(LOOK_SECONDS)

    def _hit(self, blow: Blow) -> None:
        party = self._parties[blow.party]
        say(f"{blow.kind} {blow.party} ({blow.hits}) {blow.seconds:.1f}")
        self.struck.append(blow)
        if blow.kind == "hold":
            party.signal(signal.SIGSTOP, blow.hits)
            return
        party.signal(signal.SIGKILL, blow.hits)
        if blow.hits != "flower":
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
        """Return the number of the last round that asked anybody."""
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
    """Check a run's books by its transcript; return releases, and how many of them it holds.

    Whoever was drawn into a round may have released an update in it, once: it is in the
    transcript, or counted by the reason why it is not.
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
    draw = cohort_sampler(PrivacyConfig(), clients, FRACTION, 0, NAME)
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
    """Fit MiB a round to each process that lived long enough, after the first rounds."""
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="to keep what it leaves")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedser-soak-") as kept:
        soak = Soak((given.folder or Path(kept)) / "soak", given.rounds, given.round_timeout, 24)
        undisturbed = [uar_of(soak.simulate(seed)) for seed in range(3)]
        began = time.monotonic()
        blows = plan(given.rounds, given.server_kills, given.round_timeout, given.seed)
        soak.go(blows, limit=4 * 3600)
        seconds, struck = time.monotonic() - began, f"{len(soak.struck)} of {len(blows)} blows"
        say(f"finished after {seconds:.0f} s and {struck}, having ended with {soak.statuses}")
        table = pd.read_parquet(soak.run / "rounds.parquet")
        print(table[["round", "clients", "rejected", "seconds"]].to_string(index=False))
        released, there = check(soak.run, given.rounds)
        print(f"ledger: {released} releases, {there} in the transcript, the others counted as lost")
        print(slopes(soak.memory).to_string(index=False))
        print(f"test UAR {uar_of(soak.run):.3f}; undisturbed, seeds 0 to 2: {undisturbed}")


if __name__ == "__main__":
    main()
