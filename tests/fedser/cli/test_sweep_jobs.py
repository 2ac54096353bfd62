"""Sweeps that are interrupted, fail in part, or are started again by the same command."""

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from joblib.externals.loky import get_reusable_executor

from fedser.results.files import read_results
from fedser.server.rounds.bookkeeping import Recorder
from tests import ROOT
from tests.studies import run_main

SMALL = [
    "experiment=paper_leakage",
    "corpora=[synthetic,synthetic_de]",
    "corpus=synthetic",
    "corpus.speakers=10",
    "corpus.utterances_per_speaker=8",
    "shadow=[{corpus: synthetic_de, speakers: 10, utterances_per_speaker: 8}]",
    "privacy=udp_50,none",
    "privacy.reproducible_noise=true",
    "attack=statistics",
    "runtime=local",
    "rounds=4",
    "cohort_fraction=0.5",
    "folds=[0,1]",
    "adversary.shadow_federations=2",
    "adversary.leaked_updates=[1,all]",
    "adversary.bootstraps=50",
]
RUNS = ("synthetic-emobase-udp_50", "synthetic-emobase-none")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> Path:
    """Run a sweep without any disturbance and return its folder."""
    folder = tmp_path_factory.mktemp("whole")
    printed = run_main(folder, *SMALL, f"cache={cache}", draw=False)
    sweep = folder / "multirun" / "paper_leakage"  # the default folder
    assert f"page: {sweep / 'table.html'}" in printed
    return sweep


def result_of(sweep: Path) -> list[object]:
    """Return the results of a sweep without times."""
    read = [read_results(sweep / name / "results.json") for name in RUNS]
    kept = ("config", "corpus", "utility", "privacy", "attacks")
    rounds = [pd.read_parquet(sweep / name / "rounds.parquet") for name in RUNS]
    return [
        *({key: results[key] for key in kept} for results in read),
        *(rows.drop(columns="seconds").to_csv() for rows in rounds),
        *((sweep / name / "model.safetensors").read_bytes() for name in RUNS),
        (sweep / "table.csv").read_text(),
        (sweep / "table.md").read_text(),
    ]


def test_the_same_command_finishes_a_killed_sweep(whole, undrawn, cache, fedser, tmp_path):
    arguments = [*SMALL, f"cache={cache}"]
    killed = [sys.executable, "-m", "tests.fedser.cli.killed_sweep", "none", "1", "3", *arguments]
    with (tmp_path / "log").open("w") as log:  # a pipe would stay open in workers that survive
        done = subprocess.run(
            [*killed, f"hydra.sweep.dir={tmp_path / 'sweep'}"], cwd=ROOT, stdout=log, stderr=log
        )
    assert done.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    sweep = tmp_path / "sweep"
    first, second = (sweep / name for name in RUNS)
    assert (first / "results.json").exists() and not (second / "results.json").exists()
    assert (second / "checkpoint" / "private-fold1" / "state.safetensors").exists()
    written = (first / "results.json").stat().st_mtime_ns
    (first / "transcript").mkdir()  # as if the process was killed before the removal

    again = [*SMALL, f"hydra.sweep.dir={sweep}"]
    status, printed = fedser(*again)
    assert status == 0 and f"{first}: finished before" in printed
    assert (first / "results.json").stat().st_mtime_ns == written
    assert not list(sweep.glob("*/transcript")) and not list(sweep.glob("*/checkpoint"))
    assert result_of(sweep) == result_of(whole)

    times = {path: path.stat().st_mtime_ns for path in sweep.glob("*/*")}
    status, printed = fedser(*again)
    assert status == 0 and printed.count("finished before") == 2
    assert {path: path.stat().st_mtime_ns for path in sweep.glob("*/*")} == times


def test_a_run_of_another_configuration_is_named(whole, undrawn, fedser):
    before = {path: path.read_bytes() for path in whole.glob("*/.hydra/*")}
    expected = result_of(whole)
    status, printed = fedser(*SMALL, "rounds=5", "privacy=udp_50", f"hydra.sweep.dir={whole}")
    assert status == 2
    assert "holds a run of another configuration (rounds was 4 and is 5)" in printed
    assert f"1 run(s) failed: {RUNS[0]}" in printed
    assert {path: path.read_bytes() for path in whole.glob("*/.hydra/*")} == before
    # What cannot change a figure may be another, and a run that was refused is there still.
    status, _ = fedser(*SMALL, "checkpoint_every=2", f"hydra.sweep.dir={whole}")
    assert status == 0 and result_of(whole) == expected


def test_a_crashed_run_is_named_and_can_be_repeated(whole, undrawn, fedser, tmp_path, monkeypatch):
    record = Recorder.record

    def lack_memory(self, number, *rest):
        if (self.outcome.federation.role, number) == ("private", 3):
            raise MemoryError
        record(self, number, *rest)

    command = [*SMALL, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    second, first = (tmp_path / "sweep" / name for name in RUNS)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record", lack_memory)
        status, printed = fedser(*command, "privacy=none")
    assert status == 1 and f"1 run(s) failed: {RUNS[1]}" in printed
    line = (first / "problem.txt").read_text()
    assert line == f"MemoryError: no message (see {first / 'traceback.txt'})"
    assert f"fedser: {line}" in printed
    assert "in lack_memory" in (first / "traceback.txt").read_text()
    assert f"No results of {RUNS[1]}: MemoryError" in (tmp_path / "sweep/table.md").read_text()

    status, printed = fedser(*command)
    assert status == 0 and not list((tmp_path / "sweep").glob("*/problem.txt"))
    assert not (first / "traceback.txt").exists()
    assert result_of(tmp_path / "sweep") == result_of(whole)
    overrides = yaml.safe_load((second / ".hydra" / "overrides.yaml").read_text())
    assert "privacy=udp_50" in overrides


def test_a_sweep_without_corpora_ends_before_it_starts(fedser, tmp_path):
    status, printed = fedser("experiment=paper_leakage", f"data_root={tmp_path / 'data'}")
    expected = (
        f"fedser: data_root={tmp_path / 'data'} contains none of iemocap, msp_improv, crema_d, "
    )
    assert status == 2 and printed.startswith(expected)
    status, printed = fedser("experiment=paper_leakage", "corpora=[synthetic]")
    assert status == 2 and printed.startswith(
        "fedser: corpora=[synthetic]: each corpus is attacked"
    )
    assert not list(tmp_path.iterdir())


def test_runs_side_by_side_give_the_same_results(whole, undrawn, fedser, tmp_path):
    launch = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}"]
    status, printed = fedser(*SMALL, *launch)
    get_reusable_executor().shutdown(wait=True)
    assert status == 0, printed
    changed = [{**r, "config": None} if isinstance(r, dict) else r for r in result_of(tmp_path)]
    expected = [{**r, "config": None} if isinstance(r, dict) else r for r in result_of(whole)]
    assert changed == expected


def test_runs_on_all_cores_are_not_run_side_by_side(fedser, tmp_path):
    status, printed = fedser(*SMALL, "runtime=ray", "hydra/launcher=joblib")
    assert status == 2 and "with runtime=ray each run uses all cores: set runtime=local" in printed
