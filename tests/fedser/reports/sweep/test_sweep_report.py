import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fedser.reports.sweep.sweeps import Results, add_run, read_table

Command = Callable[..., tuple[int, str]]

pytestmark = pytest.mark.usefixtures("undrawn")


def test_report_over_one_sweep_goes_to_its_folder(
    sweep_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sweep_dir.parent)
    status, said = command("stage=report", f"runs={sweep_dir.name}")
    assert status == 0 and f"report: {sweep_dir}/sweep.html" in said and "udp_50" in said
    assert {"sweep.html", "sweep.csv", "sweep.png"} <= {path.name for path in sweep_dir.iterdir()}
    assert not (sweep_dir / ".hydra").exists() and not (sweep_dir.parent / "outputs").exists()


def test_report_over_several_folders_has_its_own_folder(
    tmp_path: Path, results: Results, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one/0", "one/1", "two/0"):
        add_run(tmp_path / name, [f"note={name}"], results)
        (tmp_path / name / "report.html").touch()
    status, _ = command("stage=report", "runs=[one,two]")
    (folder,) = tmp_path.glob("outputs/*/*")
    assert status == 0
    assert list(read_table(folder).index) == ["one/0", "one/1", "two/0"]
    page = (folder / "sweep.html").read_text("utf-8")
    links = re.findall(r'<a href="([^"]+)"', page)
    expected = [tmp_path / name / "report.html" for name in ("one/0", "one/1", "two/0")]
    assert [(folder / link).resolve() for link in links] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=report", "runs=none/*"], "runs=none/*: there is no run; name the folder"),
        (["stage=report", "runs=[a,5]"], "runs=5: there is no run"),
        (["stage=train", "runs=a"], "stage=train cannot be combined with runs: set stage=report"),
        (["stage=report", "runs=a", "run=a/0"], "runs cannot be combined with run or resume"),
    ],
)
def test_bad_runs_get_one_line_and_leave_no_file(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    add_run(tmp_path / "a" / "0", ["seed=0"], None)
    before = sorted(tmp_path.rglob("*"))
    status, said = command(*arguments)
    (line,) = [line for line in said.splitlines() if line.startswith("fedser: ")]
    assert status == 2 and message in line
    assert sorted(tmp_path.rglob("*")) == before
