"""A study on a pool of two corpora that infers attributes from the speakers' metadata."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from fedser.client.corpora.base import EMOTIONS
from fedser.results.files import read_results

PARTS = ("east", "west")
AGES = ("20", "40", "70", "34", "35", "60")  # of s0 to s5 in both parts


def write_parts(folder: Path, ages: tuple[str, ...]) -> str:
    """Write two tables of six speakers; each speaker has one utterance of noise per emotion."""
    rng = np.random.default_rng(0)
    entries = []
    for part in PARTS:
        rows = ["file,speaker,emotion,age"]
        for speaker, age in enumerate(ages):
            for emotion in EMOTIONS:
                file = f"{part}-{speaker}-{emotion}.wav"
                soundfile.write(folder / file, rng.normal(0, 0.1, 4000), 16000)
                rows.append(f"{file},s{speaker},{emotion},{age}")
        (folder / f"{part}.csv").write_text("\n".join(rows))
        entries.append(f"{{corpus: manifest, name: {part}, file: {folder}/{part}.csv}}")
    return f"[{','.join(entries)}]"


@pytest.fixture
def fedser(tmp_path, command):
    """Run the command; half of the speakers are victims, half are shadow speakers."""

    def run(*arguments: str, ages: tuple[str, ...] = AGES) -> tuple[int, str]:
        parts = write_parts(tmp_path, ages)
        private, rest = (
            "[" + ",".join(f"{part}/s{number}" for part in PARTS for number in half) + "]"
            for half in ((0, 1, 2), (3, 4, 5))
        )
        fixed = [
            "corpus=pooled",
            f"corpus.parts={parts}",
            f"corpus.speakers={private}",
            "corpus.shards=1",
            f"shadow=[{{corpus: pooled, name: rest, parts: {parts}, speakers: {rest}, shards: 1}}]",
            f"cache={tmp_path / 'cache'}",
            f"hydra.run.dir={tmp_path / 'run'}",
        ]
        return command(*fixed, *arguments)

    return run


def test_the_corpus_of_a_pooled_speaker_is_inferred(fedser, tmp_path):
    status, _ = fedser(
        "adversary.attribute=corpus",
        "attack=statistics",
        "runtime=local",
        "rounds=3",
        "cohort_fraction=0.5",
        "adversary.shadow_federations=2",
        "adversary.bootstraps=50",
    )
    assert status == 0
    results = read_results(tmp_path / "run" / "results.json")
    assert (results["speakers"], results["corpus"]["utterances"]) == (6, 24)
    assert {a["attribute"] for a in results["attacks"]} == {"corpus"}
    assert all(a["shadow_corpora"] == ["rest"] for a in results["attacks"])
    assert any(a["auc"] is not None for a in results["attacks"])
    truth = pd.read_parquet(tmp_path / "run" / "truth.parquet")
    assert set(truth["speaker"]) == {f"{part}/s{number}" for part in PARTS for number in range(3)}
    assert (truth["speaker"].str.split("/").str[0] == truth["corpus"]).all()


def test_shadow_ages_are_cut_at_the_bounds_of_the_study(fedser):
    status, printed = fedser("adversary.attribute=age_group", "stage=check", "age_bounds=[35]")
    assert status == 0
    assert [line.strip() for line in printed.splitlines() if "age_group" in line] == [
        "age_group: 35 and above (4), below 35 (2)",  # 20, 40 and 70, in each part
        "age_group: 35 and above (4), below 35 (2)",  # 34, 35 and 60
    ]


@pytest.mark.parametrize(
    ("ages", "message"),
    [
        (AGES, "takes 1 value(s) over the shadow speakers (30 and above)"),
        (("", *AGES[1:3], "29", *AGES[4:]), "private speakers have the value(s) missing, shadow"),
        ((*AGES[:3], "", *AGES[4:]), "corpus rest lacks it for speaker east/s3; set one"),
    ],
)
def test_groups_that_cannot_be_inferred_are_rejected(fedser, ages, message):
    status, printed = fedser("adversary.attribute=age_group", "stage=check", ages=ages)
    assert status == 2
    assert "adversary.attribute=age_group" in printed and message in printed


def test_shadow_corpora_must_not_contain_victims(fedser):
    status, printed = fedser("corpus.speakers=null", "adversary.attribute=corpus", "stage=check")
    assert status == 2
    assert "shadow: rest shares 24 recording(s) with the private corpus pooled" in printed
