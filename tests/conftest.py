"""Fixtures for every test."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Workers of pytest-xdist share the cores: with more threads each, they would wait for one another.
if BESIDE_OTHERS := "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import dp_accounting  # noqa: F401  (brings absl in, whose log handler is mended below)
import pytest
from absl import logging as absl_logging
from hypothesis import settings

pytest_plugins = ["tests.studies", "tests.quick_hydra"]

settings.register_profile("fedser", deadline=None)  # how fast a test is depends on the machine
settings.load_profile("fedser")

# The handler keeps the stderr of its import and closes it when Hydra sets up logging anew,
# unless it is the process' own: here that would be pytest's.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


LONG = (
    *("test_study", "network", "test_sweep_jobs", "test_docs", "test_corpora", "test_main"),
    *("test_run", "test_ray", "test_ray_ports", "test_audit", "test_planted_faults", "test_disk"),
    *("test_killed", "test_files", "test_loggers", "test_canaries", "test_federations"),
)
"""Names of files or folders of tests that take long, the longest first: workers share files."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first, and leave the order within each as it is."""

    def place(item: pytest.Item) -> int:
        names = (item.path.stem, item.path.parent.name)
        return min((LONG.index(name) for name in names if name in LONG), default=len(LONG))

    items.sort(key=place)


@pytest.fixture(autouse=True, scope="module")
def own_cores(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give modules with the mark `all_cores` all cores of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        if BESIDE_OTHERS and request.node.get_closest_marker("all_cores"):
            patch.delenv("OMP_NUM_THREADS")
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder that holds the real corpora by name; they are not part of this project."""
    if "FEDSER_DATA_ROOT" not in os.environ:
        pytest.skip("set FEDSER_DATA_ROOT to a folder of corpora to test against them")
    return Path(os.environ["FEDSER_DATA_ROOT"])
