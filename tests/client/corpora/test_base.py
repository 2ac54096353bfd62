from dataclasses import dataclass
from pathlib import Path

import pytest

from fedser.client.corpora.base import (
    Listing,
    SelectableCorpus,
    Utterance,
    check_speakers,
    shared_attributes,
)
from fedser.common.errors import UserError

FOUND = [Utterance(Path(f"{n}.wav"), "b" if n else "a", "anger") for n in range(3)]


def test_enough_utterances_are_accepted() -> None:
    check_speakers("some", FOUND, minimum=1)


def test_a_speaker_with_too_few_utterances_is_rejected() -> None:
    with pytest.raises(UserError) as error:
        check_speakers("some", FOUND, minimum=2)
    assert str(error.value) == (
        "corpus some: speaker a has 1 utterance(s) but needs at least 2 (two per shard): "
        "lower corpus.shards or leave the speaker out"
    )


def test_a_corpus_without_utterances_is_rejected() -> None:
    with pytest.raises(
        UserError, match="found no utterance of neutral, happiness, sadness, anger: "
    ):
        check_speakers("some", [], minimum=2)


@dataclass(frozen=True)
class Ten(SelectableCorpus):
    """One utterance by each of ten speakers."""

    def read(self, cache: Path) -> Listing:
        return Listing(
            [Utterance(Path(f"{n}.wav"), f"{n:02d}", "anger", {"take": str(n)}) for n in range(10)],
            {"calm": 3},
        )


def test_every_utterance_names_its_corpus() -> None:
    found = Ten("ten", 1, "error").listing(Path()).utterances
    assert [u.speaker for u in found] == [f"{n:02d}" for n in range(10)]
    assert found[3].attributes == {"corpus": "ten", "take": "3"}


def test_selected_speakers_keep_the_order_of_the_corpus() -> None:
    found = Ten("ten", 1, "error", speakers=["07", "01", "07"]).listing(Path()).utterances
    assert [u.speaker for u in found] == ["01", "07"]


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        (
            ["01", "17"],
            "corpus ten: no speaker has the name 17 (most similar of its 10 names: 07, 01, 09): "
            "correct corpus.speakers",
        ),
        (
            [],
            "corpus ten: corpus.speakers=[] keeps no speaker: name at least one, "
            "or set corpus.speakers=null to keep all",
        ),
    ],
)
def test_selections_of_unknown_or_no_speakers_are_rejected(
    speakers: list[str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        Ten("ten", 1, "error", speakers=speakers).listing(Path())
    assert str(error.value) == message


def test_shared_attributes_are_equal_in_all_utterances() -> None:
    takes = [{"gender": "male", "take": "1"}, {"take": "2", "gender": "male", "age": "30"}]
    found = [Utterance(Path("a.wav"), "a", "anger", attributes) for attributes in takes]
    assert shared_attributes(found) == {"gender": "male"}
    assert shared_attributes(found[1:]) == {"age": "30", "gender": "male", "take": "2"}
