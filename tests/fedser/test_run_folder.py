"""Several commands in one folder: one works, and the others change nothing."""

from pathlib import Path

import pytest

from fedser.common.run_folder import alone
from tests.fedser.test_study import SMALL
from tests.studies import run_main


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory) -> Path:
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    overrides = [*SMALL, "stage=train", f"cache={cache}", f"hydra.run.dir={folder}"]
    run_main(folder.parent, *overrides)
    return folder


@pytest.mark.parametrize(
    "parts",
    [
        ["hydra.run.dir={}", "seed=1"],
        ["resume={}"],
        ["run={}", "stage=attack"],
        ["run={}", "stage=report"],
    ],
)
def test_a_folder_in_use_is_left_unchanged(fedser, trained, parts):
    before = content(trained)
    with alone(trained):
        status, printed = fedser(*SMALL, *(part.format(trained) for part in parts))
    assert (status, printed.count("\n")) == (2, 1)
    assert f"fedser: {trained}: another process works on this run" in printed
    assert content(trained) == before


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["hydra.run.dir={}"], "holds a run already: set resume={}"),
        (["hydra.run.dir={}", "stage=attack"], "holds a run already"),
        (["-m", "hydra.sweep.dir={parent}", "hydra.sweep.subdir=run", "seed=3"], "seed was 0"),
        (["resume={}", "folds=[0]"], "folds was [0, 1] and is [0]"),
        (["resume={}", "rounds=9"], "rounds was 4 and is 9"),
        (["run={}", "stage=attack", "seed=1"], "seed was 0 and is 1"),
        (["run={}", "stage=train"], "stage=train cannot be combined with run"),
        (["run={}", "resume={}"], "run and resume cannot be combined"),
    ],
)
def test_a_folder_with_a_run_rejects_another_run(fedser, trained, parts, said):
    before = content(trained)
    parts = [part.format(trained, parent=trained.parent) for part in parts]
    given = [] if any(part.startswith(("resume", "run=")) for part in parts) else SMALL
    status, printed = fedser(*parts[:1], *given, *parts[1:])
    assert status == 2 and said.format(trained) in printed
    kept = content(trained)
    kept.pop(trained / "problem.txt", None)  # a sweep writes it for a run that failed
    (trained / "problem.txt").unlink(missing_ok=True)
    assert kept == before


def test_two_sweeps_do_not_share_a_folder(fedser, tmp_path):
    with alone(tmp_path / "sweep"):
        status, printed = fedser("-m", *SMALL, "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert status == 2 and "another process works on this run" in printed
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".lock"]


def test_files_of_a_run_are_readable_only_by_their_owner(trained):
    assert trained.stat().st_mode & 0o777 == 0o700
    files = [path for path in trained.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"results.json", "truth.parquet", "report.html"}
    assert not [path for path in files if path.stat().st_mode & 0o077]
