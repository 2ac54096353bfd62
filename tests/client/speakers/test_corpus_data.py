from pathlib import Path

import pytest

from fedser.client.corpora.base import Listing, Utterance
from fedser.client.speakers.corpus_data import CorpusData, load_corpus
from fedser.common.errors import UserError
from tests.examples import FEATURES, corpus


def test_attributes_of_a_speaker_are_shared_by_utterances():
    assert corpus().attributes("s00") == {"gender": "female"}


class Fixed:
    """A corpus of given utterances."""

    name, on_bad_file = "fixed", "error"

    def __init__(self, utterances: list[Utterance], shards: int) -> None:
        self._utterances, self.shards = utterances, shards

    def listing(self, cache: Path) -> Listing:
        return Listing(self._utterances)


def test_invalid_age_bounds_are_rejected_before_extraction(tmp_path):
    listed = [Utterance(Path(f"{i}.wav"), "anna", "anger") for i in range(4)]
    with pytest.raises(UserError, match=r"age_bounds=\[45, 30\]: must be ages above 0"):
        load_corpus(Fixed(listed, 1), None, tmp_path, [45, 30])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "shards", "message"),
    [
        ({"anna": 1, "bert": 9}, 1, r"speaker anna has 1 utterance\(s\) but needs at least 2"),
        ({"anna": 9, "bert": 9}, 5, r"speaker anna has 9 .* at least 10 .* lower corpus\.shards"),
        ({}, 1, "corpus fixed: found no utterance of neutral, happiness, sadness, anger"),
        ({"anna": 9}, 0, r"corpus\.shards=0"),
    ],
)
def test_a_corpus_too_small_for_training_is_rejected(counts, shards, message, tmp_path):
    listed = [
        Utterance(Path(f"{s}{i}.wav"), s, "anger") for s, n in counts.items() for i in range(n)
    ]
    with pytest.raises(UserError, match=message):
        load_corpus(Fixed(listed, shards), extractor=None, cache=tmp_path)  # type: ignore[arg-type]


def test_labels_are_indices_of_emotions():
    data = corpus(utterances=4, speakers=1)
    assert data.labels.tolist() == [0, 1, 2, 3]
    assert data.features.shape == (4, FEATURES)
    assert isinstance(data, CorpusData)
