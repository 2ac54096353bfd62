"""What a checkpoint after every round adds to a round: the same run with and without, in turns.

Run with ``make bench``. Each pair of runs does the work of `benchmarks.engines` in one process;
the figure is the median over pairs of the ratio of their rounds' mean seconds.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.engines import WARM_UP, federation
from fedser.conf.schema import RuntimeConfig
from fedser.server.study.run import run_federations


def mean_seconds(clients: int, cohort: int, rounds: int, every: int | None) -> float:
    """Return a round's mean seconds, the first ones left out."""
    with tempfile.TemporaryDirectory() as folder:
        made = federation(clients, cohort, WARM_UP + rounds, Path(folder))
        if every is not None:
            made = replace(made, checkpoint=Path(folder) / "checkpoint", checkpoint_every=every)
        (outcome,) = run_federations([made], RuntimeConfig("local"))
    return statistics.fmean(row.seconds for row in outcome.rounds[WARM_UP:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["70/7", "1000/100"], help="clients/cohort")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--every", type=int, default=1, help="rounds between checkpoints")
    given = parser.parse_args()
    for size in given.sizes:
        clients, cohort = map(int, size.split("/"))
        without, ratios = [], []
        for _ in range(given.pairs):
            without.append(mean_seconds(clients, cohort, given.rounds, None))
            ratios.append(mean_seconds(clients, cohort, given.rounds, given.every) / without[-1])
        low, _, high = statistics.quantiles(ratios, n=4)
        print(
            f"{size}: {1e3 * statistics.median(without):.1f} ms a round without checkpoints, "
            f"{100 * (statistics.median(ratios) - 1):+.1f} % with one every {given.every} round(s) "
            f"(quartiles {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
