import numpy as np
import pytest

from fedser.client.corpora.synthetic.grammar import GRAMMARS


@pytest.mark.parametrize("language", GRAMMARS)
def test_sentences_vary_and_are_short(language: str) -> None:
    rng = np.random.default_rng(0)
    sentences = [GRAMMARS[language].sentence(rng) for _ in range(200)]
    assert len(set(sentences)) > 190
    assert all(4 <= len(sentence.split()) <= 8 for sentence in sentences)
    assert all(sentence.endswith(".") for sentence in sentences)
