"""Measure the time that checkpoints add to a round: pairs of runs with and without checkpoints.

Run with ``make bench``. The runs of a pair follow each other in one process and do the work of
`benchmarks.engines`. The result is the median, over all pairs, of the ratio of the mean seconds
per round.
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
    """Return the mean seconds per round without the warm-up rounds.

    Parameters
    ----------
    every : int or None
        Rounds between checkpoints; None writes no checkpoints.
    """
    with tempfile.TemporaryDirectory() as folder:
        study = federation(clients, cohort, WARM_UP + rounds, Path(folder))
        if every is not None:
            study = replace(study, checkpoint=Path(folder) / "checkpoint", checkpoint_every=every)
        (outcome,) = run_federations([study], RuntimeConfig("local"))
    return statistics.fmean(row.seconds for row in outcome.rounds[WARM_UP:])


def main() -> None:
    """Measure the pairs of runs and print one line per size."""
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
            f"{size}: {1e3 * statistics.median(without):.1f} ms per round without checkpoints, "
            f"{100 * (statistics.median(ratios) - 1):+.1f} % with one every {given.every} round(s) "
            f"(quartiles {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
