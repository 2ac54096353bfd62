from pathlib import Path

import pytest

from fedser.client.corpora.rotation import (
    OPEN_CORPORA,
    STUDY_CORPORA,
    check_rotation,
    corpora_below,
    corpus_problem,
    missing_corpora,
    others,
)
from fedser.common.errors import UserError
from fedser.conf.build import compose
from fedser.server.study.run import study_config
from tests.client.corpora.layouts import LAYOUTS, Speech


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Speech:
    return Speech.spoken(tmp_path_factory.mktemp("voices"))


def put(data_root: Path, speech: Speech, *names: str) -> None:
    for name in names:
        LAYOUTS[name](data_root / name, speech)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ([], []),
        (["emodb", "nemo"], ["nemo", "emodb"]),
        (["nemo", "crema_d", "ravdess"], ["ravdess", "nemo"]),
        (["nemo", "crema_d"], ["crema_d"]),  # equal counts: the study has priority
        (["msp_improv", "nemo", "emodb", "iemocap"], ["iemocap", "msp_improv"]),
    ],
)
def test_study_corpora_are_used_unless_more_are_open(there, chosen, speech, tmp_path):
    put(tmp_path, speech, *there)
    assert corpora_below(str(tmp_path)) == chosen


def test_the_adversary_holds_the_other_corpora():
    assert others(["a", "b", "c"], "b") == ["a", "c"]
    assert others(["a", "b"], "mine") == ["a", "b"]
    assert others(["a"], "a") == []


def test_a_missing_corpus_is_named_with_its_source(speech, tmp_path):
    put(tmp_path, speech, "iemocap")
    for file in (tmp_path / "iemocap").rglob("*.wav"):
        file.unlink()
    assert corpus_problem("iemocap", str(tmp_path)) == (
        f"corpus iemocap: {tmp_path}/iemocap contains no turns: get the corpus from "
        "https://sail.usc.edu/iemocap/iemocap_release.htm (USC's release agreement, for "
        "research); docs/corpora.md describes its folder"
    )
    assert corpus_problem("synthetic", str(tmp_path)) is None  # it is generated


def test_only_candidate_corpora_are_reported_missing(speech, tmp_path):
    put(tmp_path, speech, "crema_d", "nemo", "emodb")
    named = [line.split()[1].rstrip(":") for line in missing_corpora(str(tmp_path), ["crema_d"])]
    assert named == ["iemocap", "msp_improv"]
    named = [
        line.split()[1].rstrip(":") for line in missing_corpora(str(tmp_path), ["nemo", "emodb"])
    ]
    assert named == ["iemocap", "msp_improv", "ravdess"]


def test_a_folder_without_corpora_is_rejected(tmp_path):
    expected = (
        f"data_root={tmp_path} contains none of {', '.join((*STUDY_CORPORA, *OPEN_CORPORA))}: set "
        "data_root or FEDSER_DATA_ROOT to a folder with one subfolder per corpus, or set "
        r"corpora=\[NAME,NAME\] to other corpora; docs/corpora.md lists where to get them"
    )
    with pytest.raises(UserError, match=expected):
        missing_corpora(str(tmp_path), [])


def test_one_corpus_or_a_missing_corpus_is_rejected(speech, tmp_path):
    put(tmp_path, speech, "emodb")
    check_rotation(["emodb", "synthetic"], str(tmp_path), attacked=True)
    check_rotation(["emodb"], str(tmp_path), attacked=False)
    with pytest.raises(
        UserError, match=r"corpora=\[emodb\]: each corpus is attacked from the other"
    ):
        check_rotation(["emodb"], str(tmp_path), attacked=True)
    with pytest.raises(UserError, match="corpus nemo: .*nemo contains no table: "):
        check_rotation(["emodb", "nemo"], str(tmp_path), attacked=True)


def test_shadow_corpora_of_a_study_are_the_others(speech, tmp_path):
    put(tmp_path, speech, "ravdess", "nemo", "emodb")
    overrides = ["experiment=each_corpus", f"data_root={tmp_path}"]
    for private, shadow in {"ravdess": ["nemo", "emodb"], "emodb": ["ravdess", "nemo"]}.items():
        config = study_config(compose([*overrides, f"corpus={private}"]))
        assert config.corpora == ["ravdess", "nemo", "emodb"]
        assert config.shadow == shadow
    chosen = ["corpora=[emodb,synthetic_pl]", "corpus=emodb"]
    assert study_config(compose([*overrides, *chosen])).shadow == ["synthetic_pl"]
    assert study_config(compose([*overrides, *chosen, "shadow=[nemo]"])).shadow == ["nemo"]
