"""Tells a logger what becomes of a run: its configuration, rounds, results and files."""

import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

from fedser.common.errors import Suspended, UserError, brief
from fedser.common.tables import read_table
from fedser.results.attacks import attack_series
from fedser.results.files import Results
from fedser.server.federation.federation import Federation
from fedser.server.rounds.checkpoint import saved_rounds
from fedser.server.study.federations import round_columns

FOLLOW_SECONDS, SHARE = 2.0, 0.01
"""Between two looks at what was trained meanwhile, at least; of a core's time for logging it."""
NAMES = {"federation", "role", "fold", "round"}
"""Columns of ``rounds.parquet`` that are no figures."""
STATEMENT = (
    *("mechanism", "unit", "relation", "vantage", "participation", "accountant", "epsilon"),
    *("epsilon_known_participation", "delta", "nominal_epsilon", "nominal_delta", "warnings"),
)
FIGURES = (
    *("auc", "uar_calibrated", "uar_fixed", "tpr_at_fpr_01", "tpr_at_fpr_10", "advantage", "ece"),
    *("p_value", "eer"),
)
ARTEFACTS = ("results.json", "report.html", "rounds.parquet", "model.safetensors", "figures")
FINISHED, SUSPENDED, FAILED = "finished", "suspended", "failed"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunPlace:
    """Where a run is kept, and what it was configured with.

    Attributes
    ----------
    folder : Path
        Of the run.
    sweep : Path or None
        Of the multirun that it is a part of.
    config : dict of str to str
        The flattened configuration.
    """

    folder: Path
    sweep: Path | None
    config: dict[str, str]


class Backend(Protocol):
    """What a logger does. Everything may raise whatever it likes."""

    def rounds(self, federation: str, rows: Sequence[Row]) -> None:
        """Log those of a federation's rounds, in their order, that were not logged before."""

    def results(self, results: Results, measured: bool) -> None:
        """Log results and files; unless measured the figures may have been logged before."""

    def end(self, status: str, problem: str | None) -> None:
        """End the run as FINISHED, SUSPENDED or FAILED."""


class Logger(Protocol):
    """A logger as configured."""

    def check(self) -> None:
        """Raise UserError where a package is missing."""

    def begin(self, place: RunPlace, anew: bool) -> Backend | None:
        """Begin a run, or go on with the one of this folder unless it starts anew."""


@dataclass(frozen=True)
class NoLogger:
    """``logger=none``."""

    def check(self) -> None:
        """Nothing is needed."""

    def begin(self, place: RunPlace, anew: bool) -> None:
        """Nothing is kept."""


class RunLog:
    """The log of one run. It begins with the first thing to log.

    A logger that cannot begin ends the run in one line before anything is trained; where it fails
    later it is said once, nothing more is logged, and the run goes on.
    """

    def __init__(self, logger: Logger, place: RunPlace) -> None:
        logger.check()
        self._logger, self._place = logger, place
        self._begun = self._failed = False
        self._backend: Backend | None = None

    def begin(self, anew: bool) -> None:
        """Begin, or go on with what was logged of the folder's run.

        Raises
        ------
        UserError
            If the logger cannot.
        """
        try:
            self._backend = self._logger.begin(self._place, anew)
        except Exception as error:
            raise UserError(f"logger: {brief(error)}") from error
        self._begun = True

    @contextmanager
    def following(self, federations: Sequence[Federation]) -> Iterator[None]:
        """Log rounds while they are trained, as soon as a checkpoint holds them, by a thread."""
        if self._backend is None:
            yield
            return
        done, seen = Event(), Counter[str]()

        def follow() -> None:
            over, pause = False, FOLLOW_SECONDS
            while not over and not self._failed:
                over = done.wait(pause)
                started = time.thread_time()
                for federation in federations:
                    name, checkpoint = federation.name, federation.checkpoint
                    new = saved_rounds(checkpoint, seen[name]) if checkpoint else []
                    if new:
                        self._try("rounds", name, [round_columns(row) for row in new])
                        seen[name] += len(new)
                pause = max(FOLLOW_SECONDS, (time.thread_time() - started) / SHARE)

        thread = Thread(target=follow, name="logger", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def results(self, results: Results, measured: bool) -> None:
        """Log what a run has found and written.

        Parameters
        ----------
        measured : bool
            Whether the figures are new, or an earlier command's.
        """
        if not self._begun:
            try:
                self.begin(anew=False)
            except UserError as error:
                if not measured:
                    raise
                self._fail(error)
        if self._backend is None:
            return
        rounds = read_table(self._place.folder / "rounds.parquet")
        for federation, rows in rounds.groupby("federation", sort=False):
            self._try("rounds", str(federation), rows.to_dict("records"))
        self._try("results", results, measured)

    def end(self, status: str, problem: str | None = None) -> None:
        """End it, if it ever began."""
        self._try("end", status, problem)

    def _try(self, method: str, *arguments: Any) -> None:
        if self._backend is None or self._failed:
            return
        try:
            getattr(self._backend, method)(*arguments)
        except Exception as error:  # what was trained is worth more than its log
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        print(f"fedser: the logger failed, the run goes on: {brief(error)}", file=sys.stderr)


@contextmanager
def logged(log: RunLog) -> Iterator[RunLog]:
    """End the log as the run ends."""
    try:
        yield log
    except (Suspended, KeyboardInterrupt) as error:
        log.end(SUSPENDED, _told(error))
        raise
    except Exception as error:
        log.end(FAILED, _told(error))
        raise
    log.end(FINISHED)


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


def require(*packages: str) -> None:
    """Make sure that optional packages are there.

    Raises
    ------
    UserError
        Naming what brings them.
    """
    for package in packages:
        if find_spec(package) is None:
            raise UserError(
                f"logger: the package {package} is not installed: pip install 'fedser[loggers]'"
            )


def flatten(config: Any, name: str = "") -> dict[str, str]:
    """Return the leaves of a configuration by dotted names; lists are leaves."""
    if not isinstance(config, Mapping):
        return {name: "null" if config is None else str(config)}
    leaves: dict[str, str] = {}
    for key, value in config.items():
        leaves |= flatten(value, f"{name}.{key}".removeprefix("."))
    return leaves


def round_figures(row: Row) -> dict[str, float]:
    """Return the figures of a round that exist."""
    figures = {name: float(value) for name, value in row.items() if name not in NAMES}
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def statement(results: Results) -> dict[str, str]:
    """Return the privacy statement as texts; what does not exist is ``none``."""
    told = {}
    for name in STATEMENT:
        value = results["privacy"][name]
        text = "; ".join(value) if isinstance(value, list) else str(value)
        told[f"privacy.{name}"] = "none" if value is None else text
    return told


def result_figures(results: Results) -> list[tuple[str, float, int]]:
    """Return name, value and step of each figure that exists.

    The step of an attack's figure is the number of leaked updates; of all of them the name
    ends in ``_all``.
    """
    utility, privacy = results["utility"], results["privacy"]
    found: list[tuple[str, float | None, int]] = [
        ("utility/uar", utility["uar"], 0),
        ("utility/accuracy", utility["accuracy"], 0),
        ("privacy/epsilon", privacy["epsilon"], 0),
        ("privacy/epsilon_known_participation", privacy["epsilon_known_participation"], 0),
    ]
    found += [(f"timing/{name}", value, 0) for name, value in results["timing"].items()]
    found += [("utility/uar_by_fold", fold["uar"], fold["fold"]) for fold in utility["per_fold"]]
    for label, records in attack_series(results["attacks"]).items():
        # What every logger takes in a name.
        series = f"attack/{re.sub(r'[^A-Za-z0-9_. -]', '-', label)}"
        for record in records:
            leaked = record["leaked_updates"]
            end, step = ("_all", 0) if leaked == "all" else ("", leaked)
            ends = dict(zip(("auc_low", "auc_high"), record["ci95_auc"] or (), strict=False))
            shown = {**{name: record[name] for name in FIGURES}, **ends}
            found += [(f"{series}/{name}{end}", value, step) for name, value in shown.items()]
    return [(name, float(value), step) for name, value, step in found if value is not None]
