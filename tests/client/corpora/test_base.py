from pathlib import Path

import pytest

from client.corpora.base import Utterance, check_speakers
from client.errors import UserError

FOUND = [Utterance(Path(f"{n}.wav"), "b" if n else "a", "anger") for n in range(3)]


def test_enough() -> None:
    check_speakers("some", FOUND, minimum=1)


def test_speaker_with_too_few() -> None:
    with pytest.raises(UserError) as error:
        check_speakers("some", FOUND, minimum=2)
    assert str(error.value) == (
        "corpus some: speaker a has 1 utterance(s), at least 2 are needed (two a shard): "
        "lower corpus.shards or leave the speaker out"
    )


def test_empty() -> None:
    with pytest.raises(UserError, match="no utterance of neutral, happiness, sadness, anger was"):
        check_speakers("some", [], minimum=2)
