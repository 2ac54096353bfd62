"""Run folders made by somebody who means harm: they are data, and nothing more.

Each must end in one line or in a page, run no code, and read and write nothing outside.
"""

import json
import sys
from contextlib import suppress
from typing import Any

import pytest
import yaml

from attacks.earlier import earlier_overrides, must_be_given_again
from attacks.sweep import write_sweep
from client.errors import UserError
from tests.attacks.conftest import command, make_rounds, results  # noqa: F401

SECRET = "hunter2-of-the-environment"
PRECIOUS = "a private key"


@pytest.fixture
def world(tmp_path, monkeypatch, results, command):  # noqa: F811
    """A folder from somebody else, a file outside that is precious, and traps that are sprung."""

    class World:
        run, outside, sprung = tmp_path / "run", tmp_path / "outside", tmp_path / "sprung"
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
            """Run the command and see that nothing but the run's folder took notice."""
            status, printed = command(*arguments, f"cache={tmp_path / 'cache'}")
            assert status in (0, 2) and "Traceback" not in printed, printed
            assert not self.sprung.exists()
            assert self.outside.read_text() == PRECIOUS
            assert SECRET not in printed
            for path in (self.run, self.pages):
                for file in path.rglob("*"):
                    if file.is_file() and not file.is_symlink():
                        assert SECRET.encode() not in file.read_bytes(), file
                        assert PRECIOUS.encode() not in file.read_bytes(), file
            return printed

    made = World()
    (made.run / ".hydra").mkdir(parents=True)
    made.pages.mkdir()
    made.outside.write_text(PRECIOUS)
    made.overrides(["corpus=ravdess", "rounds=0", "shadow=[]"])
    made.write()
    make_rounds().to_parquet(made.run / "rounds.parquet")
    trap = f"open({str(made.sprung)!r}, 'w')\n"
    (tmp_path / "trap.py").write_text(trap)
    (made.run / "trap.py").write_text(trap)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OF_THE_ENVIRONMENT", SECRET)
    monkeypatch.chdir(made.run)  # the worst place to be in
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
def test_keys_that_lead_out_of_a_run_are_not_taken_over(world, overrides):
    world.overrides(["rounds=3", *overrides])
    with pytest.raises(UserError, match="must be given again: add|not overrides of Hydra") as said:
        earlier_overrides(world.run, [], whole=True)
    assert "\n" not in str(said.value) and "\x1b" not in str(said.value)
    with suppress(UserError):  # a report does without them
        taken = earlier_overrides(world.run, [], whole=False)
        assert "rounds=3" in taken and overrides[-1] not in taken


@pytest.mark.parametrize("overrides", [TRAPPED[0], TRAPPED[11], LEADING_OUT[0], REVEALING[0]])
@pytest.mark.parametrize("given", [["stage=attack", "run={}"], ["resume={}"]])
def test_no_command_takes_them_over(world, overrides, given):
    world.overrides(overrides)
    printed = world.withstands(*(part.format(world.run) for part in given))
    assert "must be given again: add" in printed and printed.count("\n") == 1


def test_what_is_given_again_is_taken(world):
    world.overrides(["seed=3", "corpus=manifest", "corpus.file=/a/b", "runtime=local"])
    taken = earlier_overrides(world.run, ["corpus.file=/c/d"], whole=True)
    assert taken == ["seed=3", "corpus=manifest", "runtime=local"]
    assert must_be_given_again(["seed=3", "corpus.file=/a/b"]) == ["corpus.file=/a/b"]


def bomb(world) -> str:
    levels = [f"&l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30)]
    return "- &l0 [x]\n" + "".join(f"- {level}\n" for level in levels)


MALFORMED: dict[str, str] = {
    "a command in YAML": "!!python/object/apply:os.system ['touch sprung']",
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
def test_what_is_no_list_of_overrides_is_one_line(world, name):
    world.overrides(bomb(world) if name == "a bomb" else MALFORMED[name])
    with pytest.raises(UserError) as said:
        earlier_overrides(world.run, [], whole=True)
    assert str(said.value).isprintable()
    write_sweep(world.pages, [world.run])
    assert not world.sprung.exists()
