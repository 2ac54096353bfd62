"""Log a run to MLflow: to a store in the folder of the run or sweep, or to a given URI."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedser.common.files import read_json, write_text
from fedser.loggers.base import (
    ARTEFACTS,
    FAILED,
    FINISHED,
    SUSPENDED,
    RoundRow,
    RunPlace,
    require,
    result_figures,
    round_figures,
    statement,
)
from fedser.results.files import Results

STORE, FILES = "mlflow.db", "mlartifacts"
NOTE = "mlflow.json"
"""File in the folder of a run that names its store and its run in it."""
PARENT, SOURCE = "mlflow.parentRunId", "mlflow.source.name"
HAS_RESULTS = "fedser.results"
STATUS = {FINISHED: "FINISHED", SUSPENDED: "KILLED", FAILED: "FAILED"}
PARAMETERS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # limits of MLflow
LONGEST = 5000
"""Maximum characters of a text; MLflow's limit is slightly higher."""


@dataclass(frozen=True)
class Mlflow:
    """``logger=mlflow``.

    Attributes
    ----------
    tracking_uri : str or None
        The store: a database, a folder or a server. None: a database in the run's folder, or, for
        a sweep, one database in the sweep's folder.
    experiment : str
        Name of the experiment that holds the runs.
    """

    tracking_uri: str | None = None
    experiment: str = "fedser"

    def check(self) -> None:
        """Check that MLflow and the packages of its database are installed."""
        require("mlflow", "sqlalchemy", "alembic")

    def begin(self, place: RunPlace, fresh: bool) -> "StoredRun":
        """Begin a run; unless `fresh`, go on with the run that the folder's note names."""
        os.environ.setdefault(
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
        )  # the default retries take minutes
        from mlflow import MlflowClient  # slow to import

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # importing it sets another level
        note = place.folder / NOTE
        if (
            not fresh
            and (known := _read_note(note))
            and known["tracking_uri"] in self._stores(place)
        ):
            client = MlflowClient(known["tracking_uri"])
            client.update_run(known["run_id"], status="RUNNING")
            return StoredRun(client, client.get_run(known["run_id"]), place)
        home = place.sweep or place.folder
        uri = self.tracking_uri or f"sqlite:///{home / STORE}"
        client = MlflowClient(uri)
        files = None if self.tracking_uri else (home / FILES).as_uri()
        run = new_run(client, self._experiment(client, files), place, {})
        write_text(note, json.dumps({"tracking_uri": uri, "run_id": run.info.run_id}))
        return StoredRun(client, run, place)

    def _stores(self, place: RunPlace) -> set[str]:
        """Return the stores that a note may name; the folder may come from somebody else."""
        if self.tracking_uri:
            return {self.tracking_uri}
        return {f"sqlite:///{home / STORE}" for home in (place.folder, *place.folder.parents)}

    def _experiment(self, client: Any, files: str | None) -> str:
        found = client.get_experiment_by_name(self.experiment)
        if found:
            return str(found.experiment_id)
        return str(client.create_experiment(self.experiment, artifact_location=files))


def _read_note(note: Path) -> dict[str, str] | None:
    """Read store and run from a folder's note; None if there is no valid note."""
    try:
        known = read_json(note)
    except (OSError, ValueError):
        return None
    whole = isinstance(known, dict) and {"tracking_uri", "run_id"} <= known.keys()
    return known if whole and all(isinstance(v, str) for v in known.values()) else None


def new_run(client: Any, experiment: str, place: RunPlace, tags: Mapping[str, str]) -> Any:
    """Create a run with its parameters."""
    from mlflow.entities import Param

    sweep = {"sweep": str(place.sweep)} if place.sweep else {}
    about = {SOURCE: "fedser", "folder": str(place.folder), **sweep, **tags}
    name = f"{place.sweep.name}/{place.folder.name}" if place.sweep else place.folder.name
    run = client.create_run(experiment, run_name=name, tags=about)
    parameters = [Param(key, value[:LONGEST]) for key, value in place.config.items()]
    for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
        client.log_batch(run.info.run_id, params=parameters[start : start + PARAMETERS_AT_ONCE])
    return run


class StoredRun:
    """A run in a store. Rounds that the store already has are not logged again."""

    def __init__(self, client: Any, run: Any, place: RunPlace) -> None:
        self._client, self._run, self._place = client, run, place
        self._last: dict[str, int] = {}

    def rounds(self, federation: str, rows: Sequence[RoundRow]) -> None:
        """Log the rounds of a federation after the last one in the store."""
        if federation not in self._last:
            every = self._client.get_metric_history(self._id, f"{federation}/seconds")
            self._last[federation] = max((metric.step for metric in every), default=0)
        last = self._last[federation]
        new = [row for row in rows if row["round"] > last]
        figures = [
            (f"{federation}/{name}", value, int(row["round"]))
            for row in new
            for name, value in round_figures(row).items()
        ]
        self._log(self._id, figures)
        self._last[federation] = max((row["round"] for row in new), default=last)

    def results(self, results: Results, measured: bool) -> None:
        """Log figures, statement and files; further figures go to a child run."""
        target, has_some = self._id, HAS_RESULTS in self._run.data.tags
        if has_some and measured:
            tags = {PARENT: self._id}
            child = new_run(self._client, self._run.info.experiment_id, self._place, tags)
            target = child.info.run_id
        if measured or not has_some:
            self._log(target, result_figures(results), {**statement(results), HAS_RESULTS: "yes"})
        for name in ARTEFACTS:
            path = self._place.folder / name
            if path.is_dir():
                self._client.log_artifacts(target, str(path), name)
            elif path.exists():
                self._client.log_artifact(target, str(path))
        if target != self._id:
            self._client.set_terminated(target)

    def end(self, status: str, problem: str | None) -> None:
        """End the run."""
        if problem is not None:
            self._client.set_tag(self._id, "problem", problem[:LONGEST])
        self._client.set_terminated(self._id, STATUS[status])

    @property
    def _id(self) -> str:
        return str(self._run.info.run_id)

    def _log(
        self,
        target: str,
        figures: Sequence[tuple[str, float, int]],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log figures, and with the last of them the tags."""
        from mlflow.entities import Metric, RunTag

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value, step in figures]
        noted = [RunTag(name, text[:LONGEST]) for name, text in (tags or {}).items()]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            part = metrics[start : start + METRICS_AT_ONCE]
            last = start + METRICS_AT_ONCE >= len(metrics)
            self._client.log_batch(target, metrics=part, tags=noted if last else [])
