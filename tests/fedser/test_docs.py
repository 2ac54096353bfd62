"""The examples of docs, run as the pages show them."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky import get_reusable_executor

from fedser.client.corpora.synthetic.corpus import Synthetic, render
from fedser.common.seeds import Reproducible
from fedser.results.results import read_results
from fedser.server.transcript.transcript import Transcript
from tests import ROOT
from tests.client.corpora.trees import Speech

EXAMPLES = ROOT / "docs" / "examples"
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


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def arguments(script: str) -> list[str]:
    """Return what a script of one command gives `fedser`."""
    words = shlex.split((EXAMPLES / script).read_text().replace("\\\n", ""))
    return words[words.index("fedser") + 1 :]


@pytest.fixture
def example(tmp_path, monkeypatch, command, cache):
    """Run the command of an example, in a folder where its files are in ``mine``."""

    def run(name: str, *changes: str) -> tuple[int, str]:
        if not (tmp_path / "mine").exists():
            (tmp_path / "mine").symlink_to(EXAMPLES / name)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path / "mine")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
        get_reusable_executor().shutdown()  # workers that were started without this path
        script = (EXAMPLES / name / "run.sh").read_text()
        assert script.startswith("PYTHONPATH=mine fedser --config-dir mine/conf ")
        return command(*arguments(f"{name}/run.sh"), *changes, f"cache={cache}")

    yield run
    get_reusable_executor().shutdown()


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("outputs/*/*")
    return run


def test_every_how_to_shows_its_example_in_under_60_lines():
    for name in ("corpus", "mechanism", "attack"):
        (page,) = (EXAMPLES.parent / "how-to").glob(f"add-a*-{name}.md")
        shown = {line.split('"')[1] for line in page.read_text().splitlines() if "--8<--" in line}
        there = [p for p in (EXAMPLES / name).rglob("*.*") if p.is_file() and p.suffix != ".pyc"]
        assert shown == {str(p.relative_to(EXAMPLES.parents[1])) for p in there}
        assert sum(len(path.read_text().splitlines()) for path in there) < 60


def test_add_a_corpus(example, tmp_path):
    speech = Speech.spoken(tmp_path / "voices")
    for speaker in ("anna_f", "bert_m"):
        for emotion in ("joy", "anger", "fear"):
            speech.write(tmp_path / "data/family/talks" / f"{speaker}_{emotion}_01.wav")
    given = ["shadow=[]", f"data_root={tmp_path / 'data'}"]
    status, printed = example("corpus", *given)
    assert status == 0, printed
    assert "corpus family: Family talks" in printed and "licence: CC BY 4.0" in printed
    assert "left out: fear (2)" in printed

    (tmp_path / "data/family/talks").rename(tmp_path / "data/family/others")
    status, printed = example("corpus", *given)
    assert status == 2
    looked_for = f"the folder {tmp_path}/data/family has another layout (looked for talks/*.wav)"
    assert looked_for in printed


def test_add_a_mechanism(example, tmp_path):
    changes = [*SMALL, *SPEAKERS, "stage=train", "shadow=[]", "transcript.dtype=float32"]
    status, printed = example("mechanism", *changes)
    assert status == 0, printed
    run = only_run(tmp_path)
    privacy = read_results(run / "results.json")["privacy"]
    assert privacy["mechanism"] == "rounding.Rounding"
    assert privacy["epsilon"] is None and privacy["unit"] is None
    assert privacy["warnings"] == [
        "The mechanism is a custom one, which nothing is accounted for: what it protects is what "
        "the attacks below fail to find, and no more is known."
    ]
    assert pd.read_parquet(run / "rounds.parquet")["noise_stddev"].tolist() == [0.001] * 4
    sent = list(Transcript(run / "transcript" / "private-fold0"))
    assert sum(len(part) for part in sent) == 4 * 4
    for part in sent:
        multiples = part.arrays["dense.0.weight"] / np.float32(0.002)
        assert np.abs(multiples - multiples.round()).max() < 1e-5
        assert set(np.abs(multiples.round()).ravel()) == {0, 1}  # Adam's step is at most 5e-4

    status, printed = example("mechanism", *changes, "privacy.custom.stp=1")
    assert status == 2 and "privacy.custom.stp: no such key" in printed
    status, printed = example("mechanism", *changes, "privacy.custom._target_=rounding.Rnd")
    assert status == 2 and "privacy.custom: _target_=rounding.Rnd: no such class" in printed
    status, printed = example("mechanism", *changes, "runtime=network")
    assert status == 2 and "privacy.mechanism=custom: nodes with data of their own" in printed


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

from tests import ROOT
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


def test_add_an_attack(example, tmp_path):
    """The attack of the page ranks victims as the same one that is written without scikit-learn."""
    shutil.copytree(EXAMPLES / "attack", tmp_path / "mine")
    (tmp_path / "mine" / "reference.py").write_text(REFERENCE)
    settings = (EXAMPLES / "attack/conf/attack/input_norms.yaml").read_text()
    settings = settings.replace("input_norms.InputNorms", "reference.Reference")
    settings = settings.replace("attack.input_norms", "attack.reference")
    (tmp_path / "mine/conf/attack/reference.yaml").write_text(settings)
    changes = [*SMALL, *SPEAKERS, SHADOW, "attack=[correlation,input_norms,reference]"]
    status, printed = example("attack", *changes)
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


def test_the_tutorial_ends_at_a_frontier(tmp_path, monkeypatch, command, cache):
    render(Synthetic("mine", 1, "error", "en", 10, 8, 5), tmp_path / "mine", 1)
    monkeypatch.chdir(tmp_path)
    page = (EXAMPLES.parent / "tutorial.md").read_text()
    scripts = sorted((EXAMPLES / "tutorial").iterdir())
    assert page.count("```sh") == len(scripts)
    assert all(f'--8<-- "docs/examples/tutorial/{script.name}"' in page for script in scripts)

    def run(script: str, *changes: str) -> str:
        status, printed = command(*arguments(f"tutorial/{script}"), *changes, f"cache={cache}")
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
    (path,) = (EXAMPLES.parent / "notebooks").glob("*.ipynb")
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert len(cells) == 8
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
