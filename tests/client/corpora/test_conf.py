from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from fedser.client.corpora.manifest import Manifest
from fedser.client.corpora.nemo import Nemo
from fedser.client.corpora.synthetic.corpus import Synthetic

PUBLISHED = [
    *("iemocap", "msp_improv", "crema_d", "urdu"),
    *("ravdess", "emodb", "nemo", "audformat"),
]


def build(*overrides: str) -> Any:
    with initialize_config_module("fedser.conf", version_base="1.3"):
        config = compose(overrides=["+data_root=/data", *overrides])
    return instantiate(config.corpus)


@pytest.mark.parametrize("corpus", PUBLISHED)
def test_root_is_a_subfolder_of_data_root(corpus: str) -> None:
    assert build(f"+corpus={corpus}").root == f"/data/{corpus}"


def test_shards_are_those_of_the_study() -> None:
    assert build("+corpus=nemo") == Nemo("nemo", 5, "error", "/data/nemo")
    of_the_study = {name: build(f"+corpus={name}").shards for name in PUBLISHED[:3]}
    assert of_the_study == {"iemocap": 10, "msp_improv": 10, "crema_d": 1}


def test_iemocap_uses_the_turns_of_the_study() -> None:
    made = build("+corpus=iemocap")
    assert (made.dialogs, made.excitement) == ("improvised", "happiness")


@pytest.mark.parametrize("corpus", [*PUBLISHED, "pooled"])
def test_speakers_can_be_selected(corpus: str) -> None:
    assert build(f"+corpus={corpus}").speakers is None
    chosen = build(f"+corpus={corpus}", "corpus.speakers=[ravdess/01,08]").speakers
    assert chosen == ["ravdess/01", "08"]


@pytest.mark.parametrize("language", ["en", "de", "pl"])
def test_synthetic_has_one_option_per_language(language: str) -> None:
    group = "synthetic" if language == "en" else f"synthetic_{language}"
    assert build(f"+corpus={group}") == Synthetic(group, 1, "error", language, 40, 24, 0)


def test_manifest_maps_columns_and_emotions(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("file,who,emotion\na.wav,s1,joyful\nb.wav,s1,fear\n")
    (tmp_path / "a.wav").touch()
    corpus = build(
        "+corpus=manifest",
        f"corpus.file={file}",
        "corpus.columns.speaker=who",
        "+corpus.emotions.joyful=happiness",
        "+corpus.emotions.fear=null",
    )
    assert isinstance(corpus, Manifest)
    (found,) = corpus.listing(tmp_path).utterances
    assert (found.speaker, found.emotion) == ("s1", "happiness")
