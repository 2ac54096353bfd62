"""A server that is killed by SIGKILL at each moment that could lose data, and resumed."""

import json
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest

from fedser.conf.schema import RuntimeConfig
from fedser.server.rounds.checkpoint import saved_rounds
from fedser.server.study.files import remove_checkpoints
from fedser.server.study.run import run_federations
from tests import ROOT
from tests.server.rounds.killed import MOMENTS, PRIVACY, ROUNDS, federation, train

IN_A_ROUND = ["in the first round", "after the round was announced", "before the checkpoint"]
MOMENTS_OF_A_ROUND = [
    *IN_A_ROUND,
    "before the first round",
    "a line of the journal half written",
    "after the checkpoint",
]
KILLED = {
    "none": list(MOMENTS),  # with noise every attempt of a round has its own
    "local": MOMENTS_OF_A_ROUND,
    "udp": IN_A_ROUND,
    "adaptive": IN_A_ROUND,
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Run each study once per moment in another process; each run ends by SIGKILL."""
    folder = tmp_path_factory.mktemp("killed")
    folders = {
        name: {moment: folder / name / str(number) for number, moment in enumerate(moments)}
        for name, moments in KILLED.items()
    }
    tasks = [
        str(part)
        for name, places in folders.items()
        for moment, place in places.items()
        for part in (name, place, moment)
    ]
    command = [sys.executable, "-m", "tests.server.rounds.killed", *tasks]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folders


def left_by(folder):
    """Return all that a finished run left, without times: rows of tables, and bytes of files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet":
            found[name] = pd.read_parquet(path).drop(columns="seconds", errors="ignore").to_csv()
        elif name == "training.json":
            summary = json.loads(path.read_text())
            found[name] = {k: v for k, v in summary.items() if k != "rounds_per_second"}
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def test_a_killed_run_resumes_to_the_same_files(killed, tmp_path):
    name = "none"
    (tmp_path / "whole").mkdir()
    outcome = train(tmp_path / "whole", PRIVACY[name])
    whole = left_by(tmp_path / "whole")
    assert {"rounds.parquet", "ledger.parquet", "model.safetensors", "training.json"} < set(whole)
    for moment, folder in killed[name].items():
        if moment == "before checkpoints are removed":
            remove_checkpoints(folder)
        else:
            again = train(folder, PRIVACY[name])
            assert again.releases == outcome.releases, moment
            assert [row.round for row in again.rounds] == list(range(1, ROUNDS + 1)), moment
        found = left_by(folder)
        assert list(found) == list(whole), moment
        for file, content in whole.items():
            assert found[file] == content, (moment, file)


@pytest.mark.parametrize("name", ["local", "udp", "adaptive"])
def test_every_release_with_new_noise_is_in_the_ledger(name, killed):
    for moment, folder in killed[name].items():
        made = federation(folder, PRIVACY[name])
        journal = made.checkpoint / "journal.jsonl"
        before = journal.read_text().splitlines() if journal.exists() else []
        kept = len(saved_rounds(made.checkpoint, 0))  # the disk may be some rounds behind
        (outcome,) = run_federations([made], RuntimeConfig("local"))
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        whole = before[:-1] if "half" in moment else before
        assert [json.loads(line) for line in whole] == lines[: len(whole)], moment
        again = [number for number, _ in lines[len(whole) :]]
        assert again == list(range(kept + 1, ROUNDS + 1)), moment
        asked = Counter(client for _, cohort in lines for client in cohort)
        assert outcome.releases == asked, moment
        assert len(lines) > ROUNDS or moment not in IN_A_ROUND
        assert [row.round for row in outcome.rounds] == list(range(1, ROUNDS + 1)), moment
