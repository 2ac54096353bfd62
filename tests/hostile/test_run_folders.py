"""Run folders from an attacker: the program treats them as data.

Each command must end in one line or in a page. It must run no code of the folder, and it must
neither read nor write a file outside the folder.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from fedser.cli.earlier_run import earlier_overrides, overrides_to_repeat
from fedser.common.errors import UserError
from fedser.reports import figures
from fedser.reports.run_page import write_report
from fedser.reports.sweep.sweep_report import write_sweep
from tests.studies import command, make_rounds, results  # noqa: F401

SECRET = "hunter2-of-the-environment"
PRIVATE = "a private key"


@pytest.fixture
def attack(tmp_path, monkeypatch, results, command):  # noqa: F811
    """A run folder from an attacker, a secret file outside it, and code that leaves a mark."""

    class Attack:
        run, outside, mark = tmp_path / "run", tmp_path / "outside", tmp_path / "mark"
        pages = tmp_path / "pages"
        results: dict[str, Any]

        def __init__(self) -> None:
            self.results = results

        def overrides(self, lines: Any) -> None:
            text = lines if isinstance(lines, str) else yaml.safe_dump(lines)
            (self.run / ".hydra" / "overrides.yaml").write_text(text)

        def write(self, text: str | None = None) -> None:
            text = json.dumps(self.results) if text is None else text
            (self.run / "results.json").write_text(text)

        def withstands(self, *arguments: str) -> str:
            """Run the command and check that it touched only the run's folder."""
            status, printed = command(*arguments, f"cache={tmp_path / 'cache'}")
            assert status in (0, 2) and "Traceback" not in printed, printed
            assert not self.mark.exists()
            assert self.outside.read_text() == PRIVATE
            assert SECRET not in printed
            for path in (self.run, self.pages):
                for file in path.rglob("*"):
                    if file.is_file() and not file.is_symlink():
                        assert SECRET.encode() not in file.read_bytes(), file
                        assert PRIVATE.encode() not in file.read_bytes(), file
            return printed

    made = Attack()
    (made.run / ".hydra").mkdir(parents=True)
    made.pages.mkdir()
    made.outside.write_text(PRIVATE)
    made.overrides(["corpus=ravdess", "rounds=0", "shadow=[]"])
    made.write()
    make_rounds().to_parquet(made.run / "rounds.parquet")
    trap = f"open({str(made.mark)!r}, 'w')\n"
    (tmp_path / "trap.py").write_text(trap)
    (made.run / "trap.py").write_text(trap)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OF_THE_ENVIRONMENT", SECRET)
    monkeypatch.chdir(made.run)  # the most dangerous working directory
    yield made
    sys.modules.pop("trap", None)


TRAPPED = [
    ["model._target_=trap.Model"],
    ["corpus._target_=trap.Corpus"],
    ["features._target_=trap.Features"],
    ["logger._target_=trap.Logger"],
    ["attack.statistics._target_=trap.Attack"],
    ["+attack.other._target_=trap.Attack"],
    ["privacy=none", "+privacy.custom={_target_: trap.Mechanism}"],
    ["privacy.custom={'_target_': trap.Mechanism}"],
    ["shadow=[{corpus: manifest, _target_: trap.Corpus}]"],
    ["shadow=[{corpus: manifest, '_target_': trap.Corpus}]"],
    ["++model={_target_: trap.Model}"],
    ["features=s3prl", "features.checkpoint=x.ckpt"],
    ["features=s3prl", "features.checkpoint=${run}/x.ckpt"],
    ["features=huggingface", "features.path=model"],
    ["features=huggingface", "features.path=/tmp/model"],
]
LEADING_OUT = [
    ["corpus=manifest", "corpus.file=/etc/passwd"],
    ["corpus=manifest", "corpus.file=table.csv"],
    ["corpus=manifest", "corpus.file='~/table.csv'"],
    ["corpus.root=/"],
    ["corpus.root=.."],
    ["shadow=[{corpus: manifest, file: table.csv}]"],
    ["shadow=[{corpus: nemo, root: /}]"],
    ["shadow=['../../evil']"],
    ["model='../../evil'"],
    ["attack=[statistics,'../../evil']"],
    ["experiment='/evil'"],
    ["cache=here"],
    ["data_root=/"],
    ["run=elsewhere"],
    ["resume=elsewhere"],
    ["runs=elsewhere"],
    ["logger=mlflow"],
    ["logger=mlflow", "logger.tracking_uri=http://127.0.0.1:9"],
    ["logger=tensorboard"],
    ["runtime=network"],
    ["runtime.address=127.0.0.1:9"],
    ["runtime.ray_address=127.0.0.1:9"],
    ["runtime.truth=truth.csv"],
    ["corpus.name='../x'"],
    ["corpus.name='..'"],
    ["hydra.run.dir=elsewhere"],
    ["hydra/launcher=joblib"],
    ["hydra.searchpath=['file:///tmp']"],
    ["seed=1,2"],
    ["seed=range(3)"],
    ["corpus@here=nemo"],
]
REVEALING = [
    ["corpus.name=${oc.env:OF_THE_ENVIRONMENT}"],
    ["seed=${oc.env:OF_THE_ENVIRONMENT}"],
    ["+corpus.emotions={joy: '${oc.env:OF_THE_ENVIRONMENT}'}"],
    ["+corpus.emotions.${oc.env:OF_THE_ENVIRONMENT}=happiness"],
    ["experiment=${oc.env:OF_THE_ENVIRONMENT}"],
    ['adversary.attribute="${oc.env:OF_THE_ENVIRONMENT}"'],
]


@pytest.mark.parametrize("overrides", [*TRAPPED, *LEADING_OUT, *REVEALING], ids=" ".join)
def test_keys_that_lead_out_of_a_run_are_rejected(attack, overrides):
    attack.overrides(["rounds=3", *overrides])
    with pytest.raises(UserError, match="must be given again: add|not overrides of Hydra") as said:
        earlier_overrides(attack.run, [], complete=True)
    assert "\n" not in str(said.value) and "\x1b" not in str(said.value)
    with suppress(UserError):  # a report needs none of these keys
        taken = earlier_overrides(attack.run, [], complete=False)
        assert "rounds=3" in taken and overrides[-1] not in taken


@pytest.mark.parametrize("overrides", [TRAPPED[0], TRAPPED[11], LEADING_OUT[0], REVEALING[0]])
@pytest.mark.parametrize("given", [["stage=attack", "run={}"], ["resume={}"]])
def test_no_command_uses_rejected_keys(attack, overrides, given):
    attack.overrides(overrides)
    printed = attack.withstands(*(part.format(attack.run) for part in given))
    assert "must be given again: add" in printed and printed.count("\n") == 1


def test_keys_given_again_are_used(attack):
    attack.overrides(["seed=3", "corpus=manifest", "corpus.file=/a/b", "runtime=local"])
    taken = earlier_overrides(attack.run, ["corpus.file=/c/d"], complete=True)
    assert taken == ["seed=3", "corpus=manifest", "runtime=local"]
    assert overrides_to_repeat(["seed=3", "corpus.file=/a/b"]) == ["corpus.file=/a/b"]


def bomb() -> str:
    levels = [f"&l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30)]
    return "- &l0 [x]\n" + "".join(f"- {level}\n" for level in levels)


MALFORMED: dict[str, str] = {
    "a command in YAML": "!!python/object/apply:os.system ['touch mark']",
    "an object in YAML": "- !!python/object/new:trap.Trap []",
    "no list": "{a: b}",
    "a number": "7",
    "nothing": "",
    "lists": "[[a], [b]]",
    "numbers": "[1, 2]",
    "nested": "[" * 5000,
    "nested overrides": yaml.safe_dump(["seed=" + "[" * 3000]),
    "too many": yaml.safe_dump(["seed=1"] * 2000),
    "too large": "- seed=1\n" * 60_000,
    "no YAML": "\x00\x01",
    "no override": "['=', 'seed', '==']",
    "a surrogate": '["\\ud800=1"]',
    "control characters": yaml.safe_dump(["corpus.file=\x1b[2J\r\nfedser: all is well"]),
    "markup": yaml.safe_dump(["corpus.file=[link=http://x]<script>"]),
}


@pytest.mark.parametrize("name", [*MALFORMED, "a bomb"])
@pytest.mark.usefixtures("undrawn")
def test_malformed_overrides_give_one_line(attack, name):
    attack.overrides(bomb() if name == "a bomb" else MALFORMED[name])
    with pytest.raises(UserError) as said:
        earlier_overrides(attack.run, [], complete=True)
    assert str(said.value).isprintable()
    write_sweep(attack.pages, [attack.run])
    assert not attack.mark.exists()


PLACES = [
    "results.json",
    "report.html",
    "report.html.partial",
    "results.json.partial",
    "rounds.parquet",
    "run.json",
    "training.json",
    ".lock",
    ".hydra/overrides.yaml",
    "figures/utility.png",
    "deep/below/link",
]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("undrawn")
def test_only_regular_files_are_read_or_written(attack, place, kind):
    path = attack.run / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(attack.outside)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    printed = attack.withstands("stage=report", f"run={attack.run}")
    if kind != "folder":
        assert printed.startswith("fedser: ") and printed.count("\n") == 1
    write_sweep(attack.pages, [attack.run])
    assert attack.outside.read_text() == PRIVATE


def test_linked_folder_is_rejected(attack):
    elsewhere = attack.outside.with_name("elsewhere")
    elsewhere.mkdir()
    (attack.run / "figures").symlink_to(elsewhere)
    printed = attack.withstands("stage=report", f"run={attack.run}")
    assert "figures: a link or a device, which no run leaves" in printed
    assert not list(elsewhere.iterdir())


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(results: dict[str, Any]) -> None:  # noqa: F811
        *above, last = path
        for key in above:
            results = results[key]
        results[last] = to

    return apply


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


CHANGED = {
    "nested configuration": change("config", "deep", to=nested(200)),
    "text for a number": change("seed", to="7"),
    "text for a share": change("utility", "uar", to="0.5"),
    "a negative count": change("clients", to=-1),
    "curve of unequal lists": change("attacks", 0, "roc", to={"fpr": [0.0, 1.0], "tpr": [0.0]}),
    "curve without points": change("attacks", 0, "roc", to={"fpr": [], "tpr": []}),
    "a bound alone": change("attacks", 0, "ci95_auc", to=[0.5]),
    "three bounds": change("attacks", 0, "ci95_auc", to=[0.5, 0.6, 0.7]),
    "no attacks": change("attacks", to=[]),
    "no folds": change("utility", "per_fold", to=[]),
    "a fold far away": change("utility", "per_fold", 0, "fold", to=10**9),
    "a best round far away": change("utility", "per_fold", 0, "best_round", to=10**9),
    "another confusion": change("utility", "per_fold", 0, "confusion", to=[[1, 2], [3]]),
    "a script for a name": change("corpus", "name", to="<script>alert(1)</script>"),
    "markup for a name": change("corpus", "name", to="[/b][link=http://x]"),
    "no name": change("corpus", "name", to=""),
    "a long name": change("corpus", "name", to="x" * 100_000),
    "no releases": change("privacy", "composition", to={"noise_multiplier": 1, "releases": []}),
    "releases without end": change(
        "privacy",
        "composition",
        to={"noise_multiplier": 1e-9, "releases": [{"count": 1e17, "rate": 1.0, "clients": 1}]},
    ),
    "noise of zero": change(
        "privacy",
        "composition",
        to={"noise_multiplier": 0, "releases": [{"count": 1e9, "rate": 0.5, "clients": 9}]},
    ),
    "many sampled clients": change(
        "privacy",
        "composition",
        to={"noise_multiplier": 0.3, "releases": [{"count": 1e9, "rate": 0.5, "clients": 10**9}]},
    ),
    "an unknown mechanism": change("privacy", "mechanism", to="../../etc/passwd"),
    "an unknown relation": change("privacy", "relation", to="none of yours"),
    "a delta of zero": change("privacy", "delta", to=0),
}
TEXTS = {
    "nested too deep": "[" * 100_000,
    "a list": "[]",
    "a number of 400 digits": '{"seed": 1' + "0" * 400 + "}",
    "an infinite number": '{"seed": 1e999}',
    "NaN": '{"seed": NaN}',
    "nothing": "",
    "half a file": '{"seed": 1',
    "a surrogate alone": '{"seed": "\\ud800"}',
    "null": "null",
}


@pytest.mark.parametrize("name", [*CHANGED, *TEXTS])
def test_altered_results_give_one_line_or_a_page(attack, monkeypatch, name):
    if name in CHANGED:
        CHANGED[name](attack.results)
    attack.write(TEXTS.get(name))
    with suppress(UserError), monkeypatch.context() as patch:
        patch.setattr(figures, "png_bytes", lambda figure: b"")  # the page renders the same figures
        page = write_report(attack.run).read_text()
        assert "<script>alert" not in page
    write_sweep(attack.pages, [attack.run, attack.run])
    assert "<script>alert" not in (attack.pages / "sweep.html").read_text()


ROUNDS = {
    "no columns": pd.DataFrame(),
    "texts": make_rounds().assign(round="x", fold="y"),
    "texts for figures": make_rounds().assign(test_uar="high"),
    "texts for counts": make_rounds().assign(rejected_missing="many"),
    "lists": make_rounds().assign(clients=[[1]] * len(make_rounds())),
    "no rows": make_rounds().iloc[:0],
    "NaN": make_rounds().assign(validation_uar=np.nan, test_uar=np.nan),
    "endless": make_rounds().assign(validation_uar=np.inf),
    "another role": make_rounds().assign(role="<b>"),
    "far rounds": make_rounds().assign(round=2**62),
}


@pytest.mark.parametrize("name", [*ROUNDS, "no Parquet", "too many rows"])
def test_altered_rounds_give_one_line_or_a_page(attack, monkeypatch, name):
    attack.results["attacks"] = []  # their figures do not show rounds
    attack.write()
    monkeypatch.setattr(figures, "png_bytes", lambda figure: b"")  # the page renders the same one
    path = attack.run / "rounds.parquet"
    if name in ROUNDS:
        ROUNDS[name].to_parquet(path)
    elif name == "no Parquet":
        path.write_bytes(b"PAR1 and no more")
    else:  # a constant column takes no room in the file
        pd.DataFrame({"role": pd.Categorical(["private"]).repeat(10**7 + 1)}).to_parquet(path)
    with suppress(UserError):
        write_report(attack.run)
