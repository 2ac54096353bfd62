"""A full, read-only or missing disk: one line, no loss, and a command to go on."""

import errno
import os
import shlex

import numpy as np
import pytest

from fedser.conf.overrides import override
from fedser.results.files import read_results

STUDY = [
    "corpus.speakers=10",
    "corpus.utterances_per_speaker=4",
    "shadow=[{corpus: synthetic_de, speakers: 10, utterances_per_speaker: 4}]",
    "runtime=local",
    "rounds=2",
    "cohort_fraction=0.5",
    "folds=[0]",
    "attack=statistics",
    "adversary.leaked_updates=[1]",
    "adversary.shadow_federations=1",
    "adversary.bootstraps=20",
]
FEW = ["corpus.speakers=5", "corpus.utterances_per_speaker=4"]
FULL, READ_ONLY = errno.ENOSPC, errno.EROFS


def last_line(printed: str) -> str:
    (line,) = [line for line in printed.splitlines() if line.startswith("fedser: ")]
    assert "Traceback" not in printed and "Error executing" not in printed
    return line


@pytest.fixture
def failing(monkeypatch):
    """Return a function that lets `os.replace` fail for files of a given name."""

    def fail(name: str, number: int) -> pytest.MonkeyPatch:
        replace = os.replace

        def fail_for_name(source, target):
            if os.path.basename(target) == name:
                raise OSError(number, os.strerror(number), source, None, target)
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail_for_name)
        return monkeypatch

    return fail


@pytest.mark.parametrize("number", [FULL, READ_ONLY])
@pytest.mark.parametrize(
    "name",
    ["state.safetensors", "rounds.parquet", "training.json", "results.json", "report.html"],
)
def test_a_run_stopped_by_a_bad_disk_can_go_on(name, number, fedser, undrawn, failing, tmp_path):
    run = tmp_path / "a=b (ö)"
    patched = failing(name, number)
    status, printed = fedser(*STUDY, override("hydra.run.dir", run))
    line = last_line(printed)
    assert status == 4 and f"/{name}: {os.strerror(number)}; " in line
    patched.undo()
    command = shlex.split(
        line[line.index("fedser resume=") if "fedser resume=" in line else line.index("fedser '") :]
    )
    status, printed = fedser(*command[1:])
    assert status == 0, printed
    assert read_results(run / "results.json")["attacks"]


def test_a_full_disk_in_the_report_stage_is_reported(fedser, undrawn, failing, tmp_path):
    run = tmp_path / "run"
    assert fedser(*STUDY, f"hydra.run.dir={run}")[0] == 0
    before = (run / "results.json").read_bytes()
    (run / "report.html").unlink()
    failing("report.html", FULL)
    status, printed = fedser("stage=report", f"run={run}")
    assert status == 4 and "report.html: No space left on device; " in last_line(printed)
    assert (run / "results.json").read_bytes() == before


def test_a_full_disk_under_the_cache_is_named(command, undrawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # in this process

    def full(*_, **__):
        raise OSError("10 requested and 0 written")

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        status, printed = command(*STUDY, "cache=c", "hydra.run.dir=run")
    assert status == 4 and "cache=" in last_line(printed) and ".npy: " in last_line(printed)
    assert not list((tmp_path / "c").rglob("tmp*"))
    assert command(*STUDY, "cache=c", "resume=run")[0] == 0


def test_damaged_features_are_named_and_extracted_again(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    stage = [*FEW, "shadow=[]", "stage=check", f"cache={cache}"]
    assert command(*stage)[0] == 0
    entries = sorted(cache.rglob("features/**/*.npy"))[:4]
    whole = [entry.read_bytes() for entry in entries]
    for entry, kept in zip(entries, (0, 60, len(whole[2]) - 8, 5), strict=True):
        entry.write_bytes(entry.read_bytes()[:kept])
    status, printed = command(*stage)
    assert status == 0
    for entry, content in zip(entries, whole, strict=True):
        assert entry.name in printed and entry.read_bytes() == content


@pytest.mark.parametrize("cache", ["", " ", "file", "file/below"])
def test_a_cache_that_is_not_a_folder_is_rejected(cache, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDSER_CACHE", cache)
    status, printed = command(*STUDY, "stage=check")
    assert status == 2 and "cache" in last_line(printed) and "FEDSER_CACHE" in last_line(printed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_the_cache_is_in_the_home_folder_or_where_set(command, tmp_path, monkeypatch):
    monkeypatch.delenv("FEDSER_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    small = [*FEW, "shadow=[]", "stage=check"]
    for given, folder in (("", "xdg/fedser"), ("cache=~/own", "own"), ("cache='~/too'", "too")):
        assert command(*small, *filter(None, [given]))[0] == 0
        assert (tmp_path / folder / "features").is_dir()
    assert not (tmp_path / "~").exists()
    monkeypatch.delenv("HOME")
    assert command("--cfg", "job", "--resolve")[0] == 0


@pytest.mark.parametrize("folder", ["hydra.run.dir=file/run", "hydra.sweep.dir=file/sweep"])
def test_an_output_folder_that_cannot_be_made_is_named(folder, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    status, printed = command(*(["-m"] if "sweep" in folder else []), *STUDY, folder)
    assert status == 2 and "file/" in last_line(printed)
