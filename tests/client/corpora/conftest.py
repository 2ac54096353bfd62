"""Small corpora on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

Grow = Callable[..., Path]


@pytest.fixture
def grow(tmp_path: Path) -> Grow:
    """Write short recordings under the names given and return their folder."""

    def write(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / name, np.zeros(160), 16_000)
        return tmp_path

    return write
