"""What loggers keep, read back with their own libraries and compared with a run's files."""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.telemetry import get_telemetry_client
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedser.common.errors import Suspended, UserError
from fedser.loggers import base as loggers
from fedser.loggers.base import FINISHED, RunLog, RunPlace, flat_settings, logged
from fedser.loggers.mlflow import Mlflow
from fedser.loggers.tensorboard import EventFiles, TensorBoard
from fedser.reports.run_page import write_report
from fedser.server.rounds.bookkeeping import Recorder
from tests.fedser.test_study import SMALL, Killed
from tests.studies import make_attack

Results = dict[str, Any]
Scalars = dict[str, list[tuple[int, float]]]

TRAIN = [*SMALL, "stage=train", "folds=[0]"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def fedser(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command(*arguments, f"cache={cache}")


def place(folder: Path, **config: str) -> RunPlace:
    return RunPlace(folder, None, config)


def read_scalars(folder: Path) -> Scalars:
    """Every scalar of a folder of event files: step and value of each event."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def read_metrics(client: MlflowClient, run: Run) -> Scalars:
    """Every metric of a run: step and value of each time it was logged, by step."""
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def expected_rounds(folder: Path, federation: str) -> Scalars:
    """What `rounds.parquet` says of a federation, without what does not exist."""
    rounds = pd.read_parquet(folder / "rounds.parquet").query("federation == @federation")
    figures = rounds.drop(columns=["federation", "role", "fold", "round"])
    return {
        str(name): [
            (number, pytest.approx(float(value), rel=1e-6))
            for number, value in zip(rounds["round"], figures[name], strict=True)
            if not math.isnan(value)
        ]
        for name in figures
        if figures[name].notna().any()
    }


def only_run(store: str, experiment: str) -> Run:
    (run,) = runs_of(store, experiment)
    return run


def runs_of(store: str, experiment: str) -> list[Run]:
    client = MlflowClient(store)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def below(scalars: Scalars, federation: str) -> Scalars:
    return {
        name.removeprefix(f"{federation}/"): values
        for name, values in scalars.items()
        if name.startswith(f"{federation}/")
    }


def test_event_files_hold_rounds_results_statement_and_figures(
    run_dir: Path, results: Results
) -> None:
    write_report(run_dir)
    for _ in range(2):  # the second log replaces the first
        log = RunLog(TensorBoard(), place(run_dir, **{"privacy.mechanism": "udp", "seed": "7"}))
        log.results(results, measured=True)
        log.end(FINISHED)
    for name in ("private-fold0", "private-fold4", "shadow-0"):
        assert read_scalars(run_dir / "tensorboard" / name) == expected_rounds(run_dir, name)
    found = read_scalars(run_dir / "tensorboard" / "results")
    assert found["utility/uar"] == [(0, pytest.approx(0.583))]
    assert [step for step, _ in found["utility/uar_by_fold"]] == [0, 1, 2, 3, 4]
    assert found["privacy/epsilon"] == [(0, pytest.approx(105306.4))]
    assert "privacy/epsilon_known_participation" not in found
    assert found["attack/correlation/auc"] == [(1, pytest.approx(0.903)), (5, pytest.approx(0.951))]
    assert found["attack/correlation/auc_all"] == [(0, pytest.approx(0.962))]
    events = EventAccumulator(str(run_dir / "tensorboard" / "results")).Reload()
    texts = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
        if tag.endswith("/text_summary")
    }
    assert texts["privacy.unit/text_summary"] == "client"
    assert texts["privacy.epsilon_known_participation/text_summary"] == "none"
    assert "Clipping gradients does not bound" in texts["privacy.warnings/text_summary"]
    assert texts["status/text_summary"] == "finished"
    assert sorted(events.Tags()["images"]) == ["leakage", "roc", "utility"]
    assert events.Images("roc")[0].width == 1040


def test_stored_run_holds_everything_of_the_run(
    run_dir: Path, results: Results, store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (run_dir / "report.html").write_text("<p>a report</p>")
    logger, where = Mlflow(store, "whole"), place(run_dir, **{"corpus.name": "ravdess"})
    log = RunLog(logger, where)
    log.results(results, measured=True)
    log.end(FINISHED)
    client, run = MlflowClient(store), only_run(store, "whole")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"corpus.name": "ravdess"}
    metrics = read_metrics(client, run)
    for name in ("private-fold0", "private-fold4", "shadow-0"):
        assert below(metrics, name) == expected_rounds(run_dir, name)
    assert metrics["utility/uar"] == [(0, 0.583)]
    assert metrics["attack/correlation/auc"] == [(1, 0.903), (5, 0.951)]
    assert metrics["attack/correlation/auc_low"] == [(1, 0.851), (5, 0.91)]
    assert metrics["attack/centroid/auc_all"] == [(0, 0.624)]
    assert "privacy/epsilon_known_participation" not in metrics
    tags = run.data.tags
    assert tags["privacy.mechanism"] == "udp" and tags["privacy.epsilon"] == "105306.4"
    assert tags["privacy.epsilon_known_participation"] == "none"
    assert (tags["privacy.nominal_epsilon"], tags["privacy.nominal_delta"]) == ("25.0", "0.5")
    assert tags["privacy.vantage"].startswith("the server") and "problem" not in tags
    kept = Path(client.download_artifacts(run.info.run_id, "results.json"))
    assert json.loads(kept.read_text()) == json.loads((run_dir / "results.json").read_text())
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"results.json", "report.html", "rounds.parquet"}

    # A report measures nothing, but its files replace the files of the run.
    (run_dir / "report.html").write_text("<p>another</p>")
    log = RunLog(logger, where)
    log.results(results, measured=False)
    log.end(FINISHED)
    again = only_run(store, "whole")
    assert read_metrics(client, again) == metrics and again.info.status == "FINISHED"
    page = client.download_artifacts(run.info.run_id, "report.html")
    assert Path(page).read_text() == "<p>another</p>"

    # Another attack goes to a run of its own below it.
    other = results | {"attacks": [make_attack(auc=0.75)]}
    log = RunLog(logger, where)
    log.results(other, measured=True)
    log.end(FINISHED)
    (child,) = [r for r in runs_of(store, "whole") if r.info.run_id != run.info.run_id]
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert child.info.status == "FINISHED"
    assert read_metrics(client, child)["attack/correlation/auc"] == [(1, 0.75)]
    assert not below(read_metrics(client, child), "private-fold0")
    assert read_metrics(client, client.get_run(run.info.run_id)) == metrics


def test_stored_run_has_the_status_of_the_run(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ends = {
        "suspended": (Suspended("too few nodes"), "KILLED", "too few nodes"),
        "interrupted": (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        "failed": (UserError("no such file"), "FAILED", "no such file"),
    }
    for name, (error, status, problem) in ends.items():
        (tmp_path / name).mkdir()
        log = RunLog(Mlflow(store, name), place(tmp_path / name))
        with pytest.raises(type(error)), logged(log):
            log.begin(fresh=True)
            raise error
        run = only_run(store, name)
        assert (run.info.status, run.data.tags["problem"]) == (status, problem)
    log = RunLog(Mlflow(store, "suspended"), place(tmp_path / "suspended"))
    log.begin(fresh=False)
    assert only_run(store, "suspended").info.status == "RUNNING"
    log.end(FINISHED)
    assert only_run(store, "suspended").info.status == "FINISHED"


def test_log_that_never_begins_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError), logged(RunLog(Mlflow(None, "none"), place(tmp_path))):
        raise UserError("bad input")
    with pytest.raises(UserError), logged(RunLog(TensorBoard(), place(tmp_path))):
        raise UserError("bad input")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_rounds_are_logged_as_they_are_trained_and_once(
    name: str,
    fedser: Callable[..., tuple[int, str]],
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, federation = tmp_path / "run", "private-fold0"
    own = [f"logger.tracking_uri={store}", "logger.experiment=live"] if name == "mlflow" else []
    record = Recorder.record

    def record_or_die(self: Recorder, number: int, *rest: Any) -> None:
        record(self, number, *rest)
        if number == 4:
            raise Killed

    def found() -> Scalars:
        if name == "tensorboard":
            return read_scalars(run / "tensorboard" / federation)
        stored = only_run(store, "live")
        assert stored.data.params["rounds"] == "4"
        assert stored.data.params["privacy.mechanism"] == "none"
        return below(read_metrics(MlflowClient(store), stored), federation)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record", record_or_die)
        with pytest.raises(Killed):
            fedser(*TRAIN, f"logger={name}", *own, f"hydra.run.dir={run}")
    before = found()["seconds"]
    assert [step for step, _ in before] in ([1, 2], [1, 2, 3])
    assert not (run / "rounds.parquet").exists()
    assert fedser(f"resume={run}", f"logger={name}", *own)[0] == 0
    assert found() == expected_rounds(run, federation)
    assert found()["seconds"][: len(before)] == before
    assert fedser(f"resume={run}", f"logger={name}", *own)[0] == 0  # nothing is left to do
    if name == "tensorboard":
        assert found() == expected_rounds(run, federation)


def test_runs_of_a_sweep_share_a_store(
    fedser: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    sweep = tmp_path / "a sweep"
    varied = ["rounds=0,1,2", "logger=mlflow", f"hydra.sweep.dir={sweep}"]
    status, printed = fedser("-m", *TRAIN, *varied)
    assert status == 2 and "1 run(s) failed: 0" in printed
    store = f"sqlite:///{sweep / 'mlflow.db'}"
    runs = sorted(runs_of(store, "fedser"), key=lambda run: str(run.info.run_name))
    assert [run.info.run_name for run in runs] == ["a sweep/1", "a sweep/2"]
    for number, run in enumerate(runs, start=1):
        assert run.data.tags["sweep"] == str(sweep)
        assert run.data.params["rounds"] == str(number)
        found = below(read_metrics(MlflowClient(store), run), "private-fold0")
        assert found == expected_rounds(sweep / str(number), "private-fold0")
        kept = sweep / "mlartifacts" / run.info.run_id / "artifacts" / "results.json"
        assert kept.read_bytes() == (sweep / str(number) / "results.json").read_bytes()
    assert list(pd.read_csv(sweep / "sweep.csv")["run"]) == [0, 1, 2]
    assert mlflow.get_tracking_uri() not in (store, None)  # nothing global was set
    assert not (tmp_path / "mlruns").exists()


def test_a_report_logs_an_earlier_run(
    run_dir: Path, fedser: Callable[..., tuple[int, str]], store: str
) -> None:
    (run_dir / ".hydra").mkdir()
    (run_dir / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["corpus=ravdess"]))
    options = ["logger=mlflow", f"logger.tracking_uri={store}", "logger.experiment=late"]
    for _ in range(2):
        assert fedser("stage=report", f"run={run_dir}", *options)[0] == 0
        run = only_run(store, "late")
        metrics = read_metrics(MlflowClient(store), run)
        assert below(metrics, "private-fold2") == expected_rounds(run_dir, "private-fold2")
        assert metrics["attack/correlation/auc_all"] == [(0, 0.962)]
        files = MlflowClient(store).list_artifacts(run.info.run_id, "figures")
        assert len(files) == 3


def test_failing_logger_does_not_end_the_run(
    run_dir: Path,
    results: Results,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventFiles, "rounds", full)
    log = RunLog(TensorBoard(), place(run_dir))
    log.results(results, measured=True)
    log.end(FINISHED)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "fedser: the logger failed, the run goes on: [Errno 28] No space left on device"
    )


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    yield


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["logger=tensorboard"], "pip install 'fedser[loggers]'"),
        (["logger=mlflow"], "pip install 'fedser[loggers]'"),
    ],
)
def test_missing_package_is_named_before_training(
    arguments: list[str],
    message: str,
    fedser: Callable[..., tuple[int, str]],
    tmp_path: Path,
    no_tensorboard: None,
) -> None:
    status, printed = fedser(*TRAIN, *arguments)
    assert status == 2 and message in printed
    assert len([line for line in printed.splitlines() if line.startswith("fedser: ")]) == 1
    assert os.listdir(tmp_path) == []


def test_unreachable_store_ends_the_run_before_training(
    fedser: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    uri = "sqlite:////proc/none/mlflow.db"
    status, printed = fedser(*TRAIN, "logger=mlflow", f"logger.tracking_uri={uri}")
    (line,) = [line for line in printed.splitlines() if line.startswith("fedser: ")]
    assert status == 2 and line.startswith("fedser: logger: ")
    assert os.listdir(tmp_path) == []


def test_configurations_become_dotted_names() -> None:
    config = {"a": {"b": 1, "c": {"d": None}}, "e": [1, {"f": 2}], "g": "text"}
    assert flat_settings(config) == {"a.b": "1", "a.c.d": "null", "e": "[1, {'f': 2}]", "g": "text"}


def test_mlflow_telemetry_is_off() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert get_telemetry_client() is None
