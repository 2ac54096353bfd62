"""Small corpora on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.client.corpora.layouts import LAYOUTS, Speech

WriteRecordings = Callable[..., Path]
WriteLayout = Callable[[str], Path]


@pytest.fixture
def write_recordings(tmp_path: Path) -> WriteRecordings:
    """Write short recordings under the names given and return their folder."""

    def write(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / name, np.zeros(160), 16_000)
        return tmp_path

    return write


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Speech:
    """Synthesised recordings."""
    return Speech.spoken(tmp_path_factory.mktemp("voices"))


@pytest.fixture
def write_layout(speech: Speech, tmp_path: Path) -> WriteLayout:
    """Write a corpus in its published layout and return its folder."""

    def write(name: str) -> Path:
        LAYOUTS[name](tmp_path / name, speech)
        return tmp_path / name

    return write
