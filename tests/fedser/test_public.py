"""Studies that start from public speech."""

import numpy as np
import pandas as pd
import pytest

from fedser.client.speakers.public_model import PublicModel
from fedser.results.files import read_results

SMALL = [
    *("corpus.speakers=10", "corpus.utterances_per_speaker=8", "runtime=local", "folds=[0,1]"),
    "public=[{corpus: synthetic_de, speakers: 10, utterances_per_speaker: 8}]",
    *("model=linear", "model.components=16", "rounds=3", "cohort_fraction=1"),
    *("algorithm=fedsgd", "algorithm.server_learning_rate=null", "training.batch_size=100"),
]
CENTRAL = [
    *("privacy=central", "privacy.vantage=sum", "privacy.relation=zero_out"),
    *("privacy.epsilon=8", "privacy.clipping_norm=0.45"),
]
SHADOW = "shadow=[{corpus: synthetic_pl, speakers: 10, utterances_per_speaker: 8}]"
ADVERSARY = ["adversary.shadow_federations=1", "adversary.bootstraps=20"]


@pytest.fixture
def run_of(fedser, undrawn, tmp_path):
    """Run a small study in a folder of its own; return the folder."""

    def run(name, *changes):
        folder = tmp_path / name
        status, printed = fedser(*SMALL, f"hydra.run.dir={folder}", *changes)
        assert status == 0, printed
        return folder, printed

    return run


def test_public_accuracy_stands_beside_what_clients_add(run_of):
    folder, printed = run_of("private", *CENTRAL, SHADOW, *ADVERSARY)
    results = read_results(folder / "results.json")
    utility = results["utility"]
    assert utility["public_uar"] > 0.3  # guessing gives 0.25
    public, private = (
        f"{100 * utility[f'{name}_uar']:.1f} %" for name in ("public", "unprotected")
    )
    shown = f"(public speech alone {public}; without the mechanism {private})"
    assert shown in " ".join(printed.split())
    assert utility["best_round"] == 3  # the last
    assert results["privacy"]["epsilon"] == pytest.approx(8, rel=1e-3)
    assert not any("best round" in line for line in results["privacy"]["warnings"])
    assert "Public speech alone" in (folder / "report.html").read_text()
    assert {a["name"] for a in results["attacks"]} == {"statistics", "correlation"}

    # Without the mechanism the same federations learn what a run without it learns.
    plain, _ = run_of("plain", "privacy=none", "shadow=[]", "stage=train")
    alone = read_results(plain / "results.json")["utility"]
    assert alone["uar"] == utility["unprotected_uar"] > utility["public_uar"]
    assert alone["unprotected_uar"] is None
    assert set(pd.read_parquet(folder / "rounds.parquet")["role"]) == {"private"}
    assert len(list((folder / "transcript").iterdir())) == 2  # folds with the mechanism

    # Other private speech changes nothing that is public.
    other, _ = run_of("other", *CENTRAL, "corpus.seed=5", "shadow=[]")
    first, second = (PublicModel.load(f / "public.safetensors") for f in (folder, other))
    assert first == second
    for name, array in first.head.items():
        np.testing.assert_array_equal(array, second.head[name])


def test_without_steps_the_model_is_the_public_one(run_of):
    folder, _ = run_of("still", "algorithm.server_learning_rate=1e-9", "shadow=[]")
    utility = read_results(folder / "results.json")["utility"]
    assert utility["uar"] == pytest.approx(utility["public_uar"])


def test_later_attacks_read_the_same_public_model(run_of, fedser):
    folder, _ = run_of("run", SHADOW, *ADVERSARY, "attack=[correlation]")
    before = read_results(folder / "results.json")["attacks"]
    status, printed = fedser("stage=attack", f"run={folder}")
    assert status == 0, printed
    assert read_results(folder / "results.json")["attacks"] == before


def test_engines_give_the_same_numbers(run_of):
    changes = ("shadow=[]", "folds=[0]", "stage=train", "seed=2")
    tables = [
        pd.read_parquet(run_of(name, *changes, *own)[0] / "rounds.parquet")
        for name, own in (("stacked", ()), ("loop", ("training.engine=loop",)))
    ]
    columns = ["train_loss", "update_norm_mean", "validation_uar", "test_uar"]
    np.testing.assert_allclose(tables[0][columns], tables[1][columns], rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (SHADOW.replace("synthetic_pl", "synthetic_de"), "recording(s) of synthetic_de"),
        ("model.components=500", "model.components=500: the public speech has"),
        ("public=[]", "set public to a list of corpora"),
        ("public=[nemoo]", "nemoo"),
    ],
)
def test_public_speech_that_cannot_be_used_is_named(fedser, tmp_path, key, message):
    status, printed = fedser(*SMALL, *ADVERSARY, *([] if "shadow" in key else ["shadow=[]"]), key)
    assert status == 2 and message in printed, printed
    assert not list(tmp_path.glob("outputs/*/*/results.json"))
