"""Fixtures for every test."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder that holds the real corpora by name; they are not part of this project."""
    if "FEDSER_DATA_ROOT" not in os.environ:
        pytest.skip("set FEDSER_DATA_ROOT to a folder of corpora to test against them")
    return Path(os.environ["FEDSER_DATA_ROOT"])
