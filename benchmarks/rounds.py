"""Measure a federated round in each engine; print a table and write it as JSON.

Run with ``make bench``. All engines do the same work on random data. The sizes are those of the
2022 study: 988-256-128-4 units, 26 training utterances per client, batches of 20, one local epoch
of Adam. The engines run one after another, each in its own process. Times are medians over rounds.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

SIZES = ((70, 7), (1000, 100), (10_000, 1000))
POLL_SECONDS = 0.2
MIN_TRAININGS = 1500
"""Least number of client trainings per measurement: short rounds vary more, so they need more."""


def measure(engine: str, clients: int, cohort: int, rounds: int) -> dict[str, Any]:
    """Measure an engine in its own process, and return its row of the table.

    Memory is the proportional set size of this process and all its descendants, Ray included.
    """
    call = [sys.executable, "-m", "benchmarks.rounds", "--engine", engine, "--rounds", str(rounds)]
    with tempfile.NamedTemporaryFile("r") as answer, tempfile.TemporaryFile("w+") as log:
        call += ["--sizes", f"{clients}/{cohort}", "--out", answer.name]
        child = subprocess.Popen(call, stdout=log, stderr=log, start_new_session=True)
        memory = _PeakMemory(child.pid)
        if child.wait():
            log.seek(0)
            raise SystemExit(f"{engine} at {clients}/{cohort} failed:\n{log.read()[-4000:]}")
        seconds = json.load(answer)
    median = 1e3 * statistics.median(seconds)
    return {
        "engine": engine,
        "clients": clients,
        "cohort": cohort,
        "rounds": len(seconds),
        "ms_per_round": median,
        "ms_per_client": median / cohort,
        "peak_mib": memory.mebibytes(),
    }


class _PeakMemory:
    """Measures the peak memory of a process and its descendants together, in a thread."""

    def __init__(self, pid: int) -> None:
        self._process, self._peak = psutil.Process(pid), 0
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def mebibytes(self) -> float:
        """Wait for the end of the process, and return its peak memory in MiB."""
        self._thread.join()
        return self._peak / 2**20

    def _poll(self) -> None:
        while True:
            try:
                if self._process.status() == psutil.STATUS_ZOMBIE:
                    return
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self._peak = max(self._peak, sum(map(_memory, family)))
            time.sleep(POLL_SECONDS)


def _memory(process: psutil.Process) -> int:
    """Return the proportional set size of a process in bytes; 0 if it cannot be read."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return 0


def to_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table for the terminal.

    Column ``x loop`` is the time of a round over that of the engine ``loop``. Column ``growth`` is
    the time per client over that of the engine's first size.
    """
    table = Table(title=f"one federated round on {os.cpu_count()} cores, medians")
    table.add_column("engine", no_wrap=True)
    for column in (
        "clients",
        "cohort",
        "ms per round",
        "ms per client",
        "peak MiB",
        "x loop",
        "growth",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        loops = (r for r in rows if r["engine"] == "loop" and r["clients"] == row["clients"])
        loop = next(loops, {"ms_per_round": math.nan})
        first = next(r for r in rows if r["engine"] == row["engine"])
        table.add_row(
            row["engine"],
            f"{row['clients']:,}",
            f"{row['cohort']:,}",
            f"{row['ms_per_round']:,.1f}",
            f"{row['ms_per_client']:.2f}",
            f"{row['peak_mib']:,.0f}",
            f"{row['ms_per_round'] / loop['ms_per_round']:.2f}",
            f"{row['ms_per_client'] / first['ms_per_client']:.2f}",
        )
    return table


def main() -> None:
    """Measure all engines and print the table; in a child process, measure one engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [f"{clients}/{cohort}" for clients, cohort in SIZES]
    parser.add_argument("--sizes", nargs="+", default=sizes, help="clients/cohort")
    parser.add_argument("--rounds", type=int, default=9, help="least number of rounds per median")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--engines", nargs="+", help="measure only these engines")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = [tuple(map(int, size.split("/"))) for size in given.sizes]
    if given.engine:
        from benchmarks.engines import ENGINES  # slow to import

        seconds = ENGINES[given.engine](*sizes[0], given.rounds)
        given.out.write_text(json.dumps(seconds))
        return
    console, rows = Console(width=100), []
    from benchmarks.engines import ENGINES

    for clients, cohort in sizes:
        for engine in given.engines or ENGINES:
            console.print(f"{engine}, {cohort} of {clients} clients ...", style="dim")
            rounds = max(given.rounds, MIN_TRAININGS // cohort)
            rows.append(measure(engine, clients, cohort, rounds))
    console.print(to_table(rows))
    given.out.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=2))
    console.print(f"table: {given.out}")


if __name__ == "__main__":
    main()
