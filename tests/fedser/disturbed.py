"""Kill runs at random moments and resume them, and start pairs of runs in one folder.

``python -m tests.fedser.disturbed --kills 20 --pairs 20 --runtime local`` prints one line
per run, and ends with an AssertionError if a run lost anything. ``python -m tests.network.soak``
does the same over a network.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from fedser.server.rounds.checkpoint import saved_rounds
from tests import ROOT

STUDY = [
    *("corpus.speakers=10", "corpus.utterances_per_speaker=8", "folds=[0]", "rounds=150"),
    *("cohort_fraction=0.5", "shadow=[{corpus: synthetic_de, speakers: 8}]", "attack=statistics"),
    *("adversary.shadow_federations=2", "adversary.bootstraps=20"),
]
SETTLED = 15.0
"""Seconds in which the children of a killed command must end."""
GUARANTEED = ["privacy=central", "privacy.noise_multiplier=1"]


@dataclass
class Bench:
    """A folder for runs, and the overrides that all of them have."""

    folder: Path
    overrides: list[str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "fedser",
                *arguments,
                f"cache={self.folder / 'cache'}",
            ],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )

    def into(self, run: Path, *more: str) -> subprocess.Popen[str]:
        """Start the study in a folder."""
        return self.start(*self.overrides, f"hydra.run.dir={run}", *more)

    def undisturbed(self, name: str, *more: str) -> tuple[dict[str, Any], float]:
        """Return the results of a run without disturbance, and its duration in seconds."""
        run = self.folder / name
        end(self.into(run, *more))  # fills the cache
        began = time.monotonic()
        end(self.into(run.with_name(f"{name}-again"), *more))
        return left_by(run), time.monotonic() - began


def end(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for a command and return its error output."""
    said = process.communicate(timeout=600)[1]
    assert process.returncode == status, f"status {process.returncode}: {said[-2000:]}"
    assert "Traceback" not in said, said
    return said


def left_by(run: Path) -> dict[str, Any]:
    """Return the files of a finished run without times and configuration."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if name == "results.json":
            results = json.loads(path.read_text())
            for unlike in ("timing", "config"):
                del results[unlike]
            found[name] = results
        elif name in ("rounds.parquet", "ledger.parquet"):
            found[name] = pd.read_parquet(path).drop(columns="seconds", errors="ignore").to_csv()
        elif name.startswith("transcript/") and path.is_file():
            found[name] = path.read_bytes()
    assert {"results.json", "rounds.parquet", "ledger.parquet"} < set(found), run
    return found


def attempts(run: Path) -> tuple[Counter[int], int]:
    """Return how often each client was asked before a kill, and the number of saved rounds."""
    asked, kept = Counter[int](), 0
    for journal in run.glob("checkpoint/private-*/journal.jsonl"):
        for line in journal.read_text().split("\n")[:-1]:  # the last part may be half a line
            asked.update(json.loads(line)[1])
        kept = len(saved_rounds(journal.parent, 0))
    return asked, kept


def kill(bench: Bench, number: int, delay: float, whole: dict[str, Any]) -> str:
    """Kill a run after a delay, resume it and compare its files with an undisturbed run."""
    run = bench.folder / f"kill-{number}"
    process = bench.into(run)
    time.sleep(delay)
    parent = psutil.Process(process.pid)
    children = parent.children(recursive=True)
    process.kill()
    process.communicate()
    alive = psutil.wait_procs(children, timeout=SETTLED)[1]
    asked, kept = attempts(run)
    trained = (run / "training.json").exists()
    begun = (run / "run.json").exists()
    end(bench.start(f"resume={run}") if begun else bench.into(run))
    found = left_by(run)
    if "privacy=none" in bench.overrides:
        differ = [name for name in whole if found.get(name) != whole[name]]
        assert list(found) == list(whole) and not differ, f"{run}: {differ}"
    else:  # each attempt of a round has noise of its own, and counts
        ours, theirs = found["results.json"]["privacy"], whole["results.json"]["privacy"]
        assert ours["epsilon"] >= theirs["epsilon"] * (1 - 1e-9), (ours, theirs)
        if asked and not trained:
            table = pd.read_parquet(run / "ledger.parquet")
            rounds = pd.read_parquet(run / "rounds.parquet").query("role == 'private'")
            later = rounds.loc[rounds["round"] > kept, ["clients", "rejected"]].to_numpy().sum()
            released = table["releases"].sum()
            assert released == asked.total() + later, (run, released, asked, later)
    place = "done" if (trained and kept == 0) else f"{kept} rounds kept"
    return f"killed after {delay:5.2f} s: {place}, {len(alive)} children alive, results equal"


def pair(bench: Bench, number: int, delay: float, whole: list[dict[str, Any]]) -> str:
    """Start two runs in one folder: one finishes as if alone, the other changes nothing."""
    run, seeds = bench.folder / f"pair-{number}", (0, number % 2)
    first = bench.into(run, f"seed={seeds[0]}")
    time.sleep(delay)
    second = bench.into(run, f"seed={seeds[1]}")
    said = [process.communicate(timeout=600)[1] for process in (first, second)]
    statuses = [first.returncode, second.returncode]
    assert sorted(statuses) == [0, 2], (statuses, said)
    winner, loser = statuses.index(0), statuses.index(2)
    lines = [line for line in said[loser].splitlines() if line.startswith("fedser: ")]
    assert len(lines) == 1 and "Traceback" not in said[loser], said[loser]
    found, expected = left_by(run), whole[seeds[winner]]
    differ = [name for name in expected if found.get(name) != expected[name]]
    assert list(found) == list(expected) and not differ, f"{run}: {differ}"
    return f"second after {delay:5.2f} s: {('first', 'second')[winner]} ran; {lines[0][-60:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--runtime", choices=("local", "ray"), default="local")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    for name, privacy in {"none": ["privacy=none"], "central": GUARANTEED}.items():
        with tempfile.TemporaryDirectory(prefix="fedser-disturbed-") as kept:
            bench = Bench(Path(kept), [*STUDY, *privacy, f"runtime={given.runtime}"])
            whole, seconds = bench.undisturbed("whole", "seed=0")
            print(f"{name}: undisturbed {seconds:.1f} s", flush=True)
            for number in range(given.kills // 2):
                print(kill(bench, number, draw.uniform(0.4, 1.0) * seconds, whole), flush=True)
            if name == "none" and given.pairs:
                other, _ = bench.undisturbed("other", "seed=1")
                for number in range(given.pairs):
                    delay = draw.uniform(0, 1.1) * seconds * (number > 1)
                    print(pair(bench, number, delay, [whole, other]), flush=True)


if __name__ == "__main__":
    main()
