"""Send a run to a logger: its configuration, rounds, results and files."""

import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

from fedser.common.errors import Suspended, UserError, brief, say
from fedser.common.tables import read_table
from fedser.results.attacks import AttackRecord, attack_series
from fedser.results.files import Results
from fedser.server.federation.federation import Federation
from fedser.server.rounds.checkpoint import saved_rounds
from fedser.server.study.files import round_columns

FOLLOW_SECONDS, SHARE = 2.0, 0.01
"""Minimum pause between two checks for new rounds; share of one core that logging may use."""
NAMES = {"federation", "role", "fold", "round"}
"""Columns of ``rounds.parquet`` that hold no figures."""
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

RoundRow = Mapping[str, Any]
"""One row of ``rounds.parquet``."""


@dataclass(frozen=True)
class RunPlace:
    """The folder and the configuration of a run.

    Attributes
    ----------
    folder : Path
        Folder of the run.
    sweep : Path or None
        Folder of the multirun, if the run is part of one.
    config : dict of str to str
        The flattened configuration.
    """

    folder: Path
    sweep: Path | None
    config: dict[str, str]


class Backend(Protocol):
    """One run in a logger. Every method may raise any exception."""

    def rounds(self, federation: str, rows: Sequence[RoundRow]) -> None:
        """Log the rounds of a federation that are not logged yet; `rows` are in order."""

    def results(self, results: Results, measured: bool) -> None:
        """Log results and files; if not `measured`, the figures may be logged already."""

    def end(self, status: str, problem: str | None) -> None:
        """End the run as FINISHED, SUSPENDED or FAILED."""


class Logger(Protocol):
    """A logger as configured."""

    def check(self) -> None:
        """Raise UserError if a package is missing."""

    def begin(self, place: RunPlace, fresh: bool) -> Backend | None:
        """Begin a run; unless `fresh`, go on with the run that this folder was logged as."""


@dataclass(frozen=True)
class NoLogger:
    """``logger=none``."""

    def check(self) -> None:
        """Accept: no package is needed."""

    def begin(self, place: RunPlace, fresh: bool) -> None:
        """Return None: nothing is logged."""


class RunLog:
    """The log of one run. It begins when there is something to log.

    If the logger cannot begin, the run ends with one line before anything is trained. If it fails
    later, one line says so, nothing more is logged, and the run goes on.
    """

    def __init__(self, logger: Logger, place: RunPlace) -> None:
        logger.check()
        self._logger, self._place = logger, place
        self._begun = self._failed = False
        self._backend: Backend | None = None

    def begin(self, fresh: bool) -> None:
        """Begin the log; unless `fresh`, go on with the earlier log of this folder.

        Raises
        ------
        UserError
            If the logger cannot begin.
        """
        try:
            self._backend = self._logger.begin(self._place, fresh)
        except Exception as error:
            raise UserError(f"logger: {brief(error)}") from error
        self._begun = True

    @contextmanager
    def following(self, federations: Sequence[Federation]) -> Iterator[None]:
        """Log rounds in a thread during training, as soon as a checkpoint holds them."""
        if self._backend is None:
            yield
            return
        trained = Event()
        thread = Thread(
            target=self._follow, args=(federations, trained), name="logger", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            trained.set()
            thread.join()

    def _follow(self, federations: Sequence[Federation], trained: Event) -> None:
        """Log new rounds until all are trained; the last check comes after `trained` is set."""
        finished, pause, logged_rounds = False, FOLLOW_SECONDS, Counter[str]()
        while not finished and not self._failed:
            finished = trained.wait(pause)
            started = time.thread_time()
            for federation in federations:
                name, checkpoint = federation.name, federation.checkpoint
                new = saved_rounds(checkpoint, logged_rounds[name]) if checkpoint else []
                if new:
                    self._try("rounds", name, [round_columns(row) for row in new])
                    logged_rounds[name] += len(new)
            pause = max(FOLLOW_SECONDS, (time.thread_time() - started) / SHARE)

    def results(self, results: Results, measured: bool) -> None:
        """Log the results and the files of a run.

        Parameters
        ----------
        measured : bool
            Whether this command measured the figures; otherwise an earlier command did.
        """
        if not self._begun:
            try:
                self.begin(fresh=False)
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
        """End the log, if it has begun."""
        self._try("end", status, problem)

    def _try(self, method: str, *arguments: Any) -> None:
        if self._backend is None or self._failed:
            return
        try:
            getattr(self._backend, method)(*arguments)
        except Exception as error:  # a failing logger must not end the training
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        say(f"the logger failed, the run goes on: {brief(error)}")


@contextmanager
def logged(log: RunLog) -> Iterator[RunLog]:
    """End the log with the status of the run."""
    try:
        yield log
    except (Suspended, KeyboardInterrupt) as error:
        log.end(SUSPENDED, _problem(error))
        raise
    except Exception as error:
        log.end(FAILED, _problem(error))
        raise
    log.end(FINISHED)


def _problem(error: BaseException) -> str:
    return str(error) or type(error).__name__


def require(*packages: str) -> None:
    """Check that optional packages are installed.

    Raises
    ------
    UserError
        If a package is missing; the message says how to install it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise UserError(
                f"logger: the package {package} is not installed: pip install 'fedser[loggers]'"
            )


def flat_settings(config: Any, name: str = "") -> dict[str, str]:
    """Return the values of a configuration by dotted name; a list is one value."""
    if not isinstance(config, Mapping):
        return {name: "null" if config is None else str(config)}
    leaves: dict[str, str] = {}
    for key, value in config.items():
        leaves |= flat_settings(value, f"{name}.{key}".removeprefix("."))
    return leaves


def round_figures(row: RoundRow) -> dict[str, float]:
    """Return the figures of a round, without missing ones."""
    figures = {name: float(value) for name, value in row.items() if name not in NAMES}
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def statement(results: Results) -> dict[str, str]:
    """Return the privacy statement as texts; ``none`` stands for a missing value."""
    texts = {}
    for name in STATEMENT:
        value = results["privacy"][name]
        text = "; ".join(value) if isinstance(value, list) else str(value)
        texts[f"privacy.{name}"] = "none" if value is None else text
    return texts


def result_figures(results: Results) -> list[tuple[str, float, int]]:
    """Return name, value and step of each figure that was measured.

    The step of an attack's figure is the number of leaked updates. If all updates leaked, the
    step is 0 and the name ends in ``_all``.
    """
    utility, privacy = results["utility"], results["privacy"]
    figures: list[tuple[str, float | None, int]] = [
        ("utility/uar", utility["uar"], 0),
        ("utility/accuracy", utility["accuracy"], 0),
        ("privacy/epsilon", privacy["epsilon"], 0),
        ("privacy/epsilon_known_participation", privacy["epsilon_known_participation"], 0),
    ]
    figures += [(f"timing/{name}", value, 0) for name, value in results["timing"].items()]
    figures += [("utility/uar_by_fold", fold["uar"], fold["fold"]) for fold in utility["per_fold"]]
    for label, records in attack_series(results["attacks"]).items():
        for record in records:
            figures += _attack_figures(label, record)
    return [(name, float(value), step) for name, value, step in figures if value is not None]


def _attack_figures(label: str, record: AttackRecord) -> list[tuple[str, float | None, int]]:
    series = f"attack/{re.sub(r'[^A-Za-z0-9_. -]', '-', label)}"  # characters of every logger
    leaked = record["leaked_updates"]
    end, step = ("_all", 0) if leaked == "all" else ("", leaked)
    bounds = dict(zip(("auc_low", "auc_high"), record["ci95_auc"] or (), strict=False))
    shown = {**{name: record[name] for name in FIGURES}, **bounds}
    return [(f"{series}/{name}{end}", value, step) for name, value in shown.items()]
