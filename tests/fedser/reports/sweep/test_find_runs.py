from pathlib import Path

import pytest

from fedser.common.errors import UserError
from fedser.reports.sweep.find_runs import find_runs, sweep_folder
from tests.fedser.reports.sweep.sweeps import add_run


def test_runs_are_found_by_folder_and_glob(tmp_path: Path) -> None:
    for name in ("a/10", "a/2", "a/3", "a/4", "b/0", "b/files/copy", "c/deep/1"):
        add_run(tmp_path / name, [], None)
    (tmp_path / "a" / "2" / "transcript" / ".hydra").mkdir(parents=True)  # none below a run
    (tmp_path / "a" / "4" / "sweep.html").touch()  # a report on runs is none
    (tmp_path / "note.txt").touch()

    def names(*patterns: str) -> list[str]:
        found = find_runs([f"{tmp_path}/{p}" for p in patterns], exclude=tmp_path / "a" / "3")
        return [str(run.relative_to(tmp_path)) for run in found]

    assert names("a") == ["a/2", "a/10"]
    assert names("a/1*") == ["a/10"]
    assert names("*") == names("") == ["a/2", "a/10", "b/0", "c/deep/1"]
    assert names("b/0", "a/2", "b", "a") == ["b/0", "a/2", "a/10"]
    with pytest.raises(UserError, match=r"runs=.*/d\*: there is no run; name the folder"):
        names("a", "d*")


def test_sweep_has_a_folder_if_it_is_named_by_that_one(tmp_path: Path) -> None:
    for name in ("a/0", "b/0"):
        add_run(tmp_path / name, [], None)
    assert sweep_folder([f"{tmp_path}/a"]) == sweep_folder([f"{tmp_path}/a*"]) == tmp_path / "a"
    assert sweep_folder([str(tmp_path)]) == tmp_path
    for several in ([f"{tmp_path}/*"], [f"{tmp_path}/a/0"], [f"{tmp_path}/a/*"], []):
        assert sweep_folder(several) is None
