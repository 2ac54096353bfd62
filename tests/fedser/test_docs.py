"""The pages of docs: commands run as written, and what the pages name exists."""

import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedser.client.corpora.synthetic.corpus import Synthetic
from fedser.common.seeds import Reproducible
from fedser.conf.schema import StudyConfig
from fedser.results.files import read_results
from fedser.server.transcript.transcript import Transcript
from tests import ROOT
from tests.client.corpora.layouts import Speech

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SMALL = [
    "runtime=local",
    "rounds=4",
    "cohort_fraction=0.5",
    "folds=[0]",
    "adversary.shadow_federations=2",
    "adversary.bootstraps=20",
]
SPEAKERS = ["corpus.speakers=10", "corpus.utterances_per_speaker=8"]
SHADOW = "shadow=[{corpus: synthetic_de, speakers: 10, utterances_per_speaker: 8}]"

Shell = Callable[..., tuple[int, str]]
"""Runs a command and returns its exit status and what it printed."""


@pytest.fixture
def shell(tmp_path: Path, cache: Path) -> Shell:
    """Run the one command of a script in a shell, in a folder with packages of the user's own.

    The packages have the names of fedser's folders and can be imported; they must not be.
    """
    (tmp_path / "mine").mkdir()
    for name in ("attacks", "client", "common", "conf", "server"):
        for folder in (tmp_path / name, tmp_path / "mine" / name):
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").write_text("raise ImportError('this is not fedser')\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # With one core the attacks are fitted in the process of the command: no worker must start.
    ours = {"PATH": path, "PYTHONPATH": ".", "FEDSER_CACHE": str(cache), "OMP_NUM_THREADS": "1"}

    def run(script: str, *changes: str) -> tuple[int, str]:
        text = (EXAMPLES / script).read_text().rstrip()
        done = subprocess.run(
            ["bash", "-euc", f"{text} {shlex.join(changes)}"],
            cwd=tmp_path,
            env={**os.environ, **ours},
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def how_to(tmp_path: Path, shell: Shell) -> Shell:
    """Run the command of a how-to, with the files of the page in ``mine``."""

    def run(name: str, *changes: str) -> tuple[int, str]:
        shutil.copytree(EXAMPLES / name, tmp_path / "mine", dirs_exist_ok=True)
        return shell(f"{name}/run.sh", *changes)

    return run


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Shell):
    """Run the command of a how-to with a mistake; in this process, which takes less time."""

    def run(name: str, *changes: str) -> str:
        words = shlex.split((EXAMPLES / name / "run.sh").read_text())
        assert words[:2] == ["PYTHONPATH=mine", "fedser"]
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path / "mine")
        status, printed = command(*words[2:], *changes)
        assert status == 2, printed
        return printed

    return run


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("outputs/*/*")
    return run


def test_every_how_to_shows_its_example_in_under_60_lines():
    for name in ("corpus", "mechanism", "attack"):
        (page,) = (DOCS / "how-to").glob(f"add-a*-{name}.md")
        shown = {line.split('"')[1] for line in page.read_text().splitlines() if "--8<--" in line}
        there = [p for p in (EXAMPLES / name).rglob("*.*") if p.is_file() and p.suffix != ".pyc"]
        assert shown == {str(p.relative_to(ROOT)) for p in there}
        assert sum(len(path.read_text().splitlines()) for path in there) < 60


def test_add_a_corpus(how_to, faulty, tmp_path):
    speech = Speech.spoken(tmp_path / "voices")
    for speaker in ("anna_f", "bert_m"):
        for emotion in ("joy", "anger", "fear"):
            speech.write(tmp_path / "data/family/talks" / f"{speaker}_{emotion}_01.wav")
    given = ["shadow=[]", f"data_root={tmp_path / 'data'}"]
    status, printed = how_to("corpus", *given)
    assert status == 0, printed
    assert "corpus family: Family talks" in printed and "licence: CC BY 4.0" in printed
    assert "left out: fear (2)" in printed

    (tmp_path / "data/family/talks").rename(tmp_path / "data/family/others")
    looked_for = f"the folder {tmp_path}/data/family has another layout (looked for talks/*.wav)"
    assert looked_for in faulty("corpus", *given)


def test_add_a_mechanism(how_to, faulty, tmp_path):
    changes = [*SMALL, *SPEAKERS, "stage=train", "shadow=[]", "transcript.dtype=float32"]
    status, printed = how_to("mechanism", *changes)
    assert status == 0, printed
    run = only_run(tmp_path)
    privacy = read_results(run / "results.json")["privacy"]
    assert privacy["mechanism"] == "rounding.Rounding"
    assert privacy["epsilon"] is None and privacy["unit"] is None
    assert privacy["warnings"] == [
        "The mechanism is a custom one. Nothing is accounted for it: only the attacks below show "
        "how well it protects."
    ]
    assert pd.read_parquet(run / "rounds.parquet")["noise_stddev"].tolist() == [0.001] * 4
    sent = list(Transcript(run / "transcript" / "private-fold0"))
    assert sum(len(part) for part in sent) == 4 * 4
    for part in sent:
        multiples = part.arrays["dense.0.weight"] / np.float32(0.002)
        assert np.abs(multiples - multiples.round()).max() < 1e-5
        assert set(np.abs(multiples.round()).ravel()) == {0, 1}  # Adam's step is at most 5e-4

    printed = faulty("mechanism", *changes, "privacy.custom.stp=1")
    assert "privacy.custom.stp: no such key" in printed
    printed = faulty("mechanism", *changes, "privacy.custom._target_=rounding.Rnd")
    assert "privacy.custom: _target_=rounding.Rnd: no such class" in printed
    printed = faulty("mechanism", *changes, "runtime=network")
    assert "privacy.mechanism=custom: real nodes apply only" in printed


def test_rounding_keeps_the_mean(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "mechanism")
    from rounding import Rounding

    mechanism = Rounding(step=0.5)
    update = {"w": np.full((100, 1000), 0.6, np.float32)}
    sent = mechanism.protect(update, 5, Reproducible(0))["w"]
    assert set(sent.ravel()) == {0.5, 1.0}
    assert (sent == 1).mean() == pytest.approx(0.2, abs=5 * 0.4 / np.sqrt(sent.size))
    assert mechanism.stddev(5) == 0.25


REFERENCE = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize

from fedser.attacks.algorithms.base import gather


@dataclass
class Reference:
    name: ClassVar[str] = "reference"
    max_examples: int | None
    inverse_regularisation: float

    def features(self, gradients):
        first = next(iter(gradients.values())).astype(float)
        return np.sqrt(np.einsum("khd,khd->kd", first, first)).astype(np.float32)

    def fit(self, examples):
        features, labels = gather(self.features, examples)
        self.mean = features.mean(axis=0, dtype=float)
        self.scale = features.std(axis=0, dtype=float)
        x, y = (features - self.mean) / self.scale, 2.0 * labels - 1

        def loss(w):
            margin = y * (x @ w[:-1] + w[-1])
            slope = -y / (1 + np.exp(margin)) * self.inverse_regularisation
            value = self.inverse_regularisation * np.logaddexp(0, -margin).sum()
            return value + w[:-1] @ w[:-1] / 2, np.append(x.T @ slope + w[:-1], slope.sum())

        start = np.zeros(x.shape[1] + 1)
        self.w = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000}).x

    def score(self, features):
        margin = (features - self.mean) / self.scale @ self.w[:-1] + self.w[-1]
        return -np.logaddexp(0, np.stack([margin, -margin], axis=1)).astype(np.float32)
"""


def test_add_an_attack(how_to, tmp_path):
    """The attack of the page ranks victims as the same one that is written without scikit-learn."""
    settings = (EXAMPLES / "attack/conf/attack/input_norms.yaml").read_text()
    settings = settings.replace("input_norms.InputNorms", "reference.Reference")
    settings = settings.replace("attack.input_norms", "attack.reference")
    (tmp_path / "mine/conf/attack").mkdir()
    (tmp_path / "mine/conf/attack/reference.yaml").write_text(settings)
    (tmp_path / "mine/reference.py").write_text(REFERENCE)
    changes = [*SMALL, *SPEAKERS, SHADOW, "attack=[correlation,input_norms,reference]"]
    status, printed = how_to("attack", *changes)
    assert status == 0, printed
    attacks = read_results(only_run(tmp_path) / "results.json")["attacks"]
    names = [attack["name"] for attack in attacks]
    assert names == ["correlation"] * 6 + ["input_norms"] * 6 + ["reference"] * 6
    # of 16 pairs of victims at most one changes places by the rounding of either
    expected = [attack["auc"] for attack in attacks[12:]]
    assert [attack["auc"] for attack in attacks[6:12]] == pytest.approx(expected, abs=1 / 16)
    assert len(set(expected)) > 1


def test_input_norms_reads_the_norms(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "attack")
    from input_norms import InputNorms

    from fedser.attacks.algorithms.base import ShadowUpdates

    attack = InputNorms(None, 1.0)
    gradient = np.zeros((2, 3, 2), np.float32)
    gradient[0, :2, 0], gradient[1, :, 1] = (3, 4), 2
    read = attack.features({"dense.0.weight": gradient, "dense.0.bias": gradient[:, :, 0]})
    assert read.tolist() == [[5, 0], [0, pytest.approx(12**0.5)]]
    attack.fit(lambda: iter([ShadowUpdates({"dense.0.weight": gradient}, np.array([1, 0]))]))
    assert attack.score(read).argmax(axis=1).tolist() == [1, 0]


def test_the_tutorial_ends_at_a_frontier(tmp_path, cache, shell):
    listed = Synthetic("mine", 1, "error", "en", 10, 8, 0).listing(cache)
    shutil.copytree(listed.utterances[0].path.parents[1], tmp_path / "mine", dirs_exist_ok=True)
    page = (DOCS / "tutorial.md").read_text()
    scripts = sorted((EXAMPLES / "tutorial").iterdir())
    assert page.count("```sh") == len(scripts)
    assert all(f'--8<-- "docs/examples/tutorial/{script.name}"' in page for script in scripts)

    def run(script: str, *changes: str) -> str:
        status, printed = shell(f"tutorial/{script}", *changes)
        assert status == 0, printed
        return printed

    assert "10 speakers │ 5 female, 5" in run("check.sh", "shadow=[]")
    assert f"report: {tmp_path}/runs/plain/report.html" in run("study.sh", *SMALL, SHADOW)
    printed = run("attack.sh")
    assert f"report: {tmp_path}/runs/plain/report.html" in printed
    attacks = read_results(tmp_path / "runs/plain/results.json")["attacks"]
    assert [a["name"] for a in attacks[::6]] == ["statistics", "correlation", "centroid"]

    printed = run("frontier.sh", *SMALL, SHADOW, "rounds=2", "attack=statistics")
    assert f"sweep: {tmp_path}/runs/frontier/sweep.csv" in printed
    table = pd.read_csv(tmp_path / "runs/frontier/sweep.csv")
    assert table["mechanism"].tolist() == ["none", "udp", "local", "central"]
    assert np.isnan(table["epsilon"][0]) and table["epsilon"][1] > 1e4
    assert table["epsilon"][2:].tolist() == pytest.approx([8, 8], rel=1e-3)


def test_notebooks_are_stored_without_outputs():
    (path,) = (DOCS / "notebooks").glob("*.ipynb")
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert len(cells) == 8
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


ROOMS = "attacks|benchmarks|client|common|conf|docker|docs|fedser|server|tests"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text()
    for path in re.findall(rf"`((?:{ROOMS})/[\w./*-]*)`", text):
        assert any(ROOT.glob(path.rstrip("/"))), path
    for name in re.findall(r"`(fedser(?:\.\w+)+)`", text):
        pkgutil.resolve_name(name)
    for module in re.findall(r"python -m ((?:fedser|benchmarks|tests)(?:\.\w+)*)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module
    for target in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", text):
        if not target.startswith("http"):
            made = page.parent / target
            assert made.exists() or made.with_suffix(".ipynb").exists(), target


def test_every_key_and_option_is_on_the_page_of_keys():
    text = (DOCS / "commands.md").read_text()
    for key in fields(StudyConfig):
        assert re.search(rf"`{key.name}[`.]", text), key.name
    for group in ("features", "model", "attack", "runtime", "logger", "audit"):
        for option in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{option.stem}`" in text, f"{group}={option.stem}"


def test_the_readme_is_short_and_says_what_it_must():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for said in ("make study", "make test", "apt-get install chromium", "FEDSER_DATA_ROOT"):
        assert said in text
