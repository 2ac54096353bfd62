"""The supply of a container: each image has a digest, each package has hashes."""

import re
from importlib.metadata import PackageNotFoundError, requires

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT

FROM_PYTORCH = re.compile("torch|triton|(nvidia|cuda)-.*")
"""Packages that come from PyTorch's own index, pinned by version."""


def locked(name: str) -> dict[str, str]:
    """Return the version of each package of a list in docker/; check that all have hashes."""
    entries = re.split(r"\n(?=\S)", (ROOT / "docker" / name).read_text().rstrip())
    for entry in entries:
        first, *hashes = entry.split(" \\\n")
        assert hashes, first
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", each) for each in hashes), first
    pins = (entry.split(" \\\n")[0].split(" ;")[0] for entry in entries)
    return {canonicalize_name(name): version for name, version in (p.split("==") for p in pins)}


def needed(name: str, extras: frozenset[str], found: set[str]) -> set[str]:
    """Add to `found` all that an installed package requires on this system, recursively."""
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        pytest.fail(f"{name} is not installed")
    for each in map(Requirement, lines):
        wanted = not each.marker or any(each.marker.evaluate({"extra": e}) for e in {"", *extras})
        if wanted and (key := canonicalize_name(each.name)) not in found:
            found.add(key)
            needed(each.name, frozenset(each.extras), found)
    return found


def test_images_have_digests():
    """Images of compose.yaml, and base images of the Dockerfile."""
    composed = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    images = {service["image"] for service in composed["services"].values()} - {"fedser"}
    text = (ROOT / "docker" / "Dockerfile").read_text()
    images |= set(re.findall("^ARG PYTHON=(.*)$", text, re.MULTILINE))
    assert len(images) == 2
    assert all(re.fullmatch(r"[\w.:/-]+@sha256:[0-9a-f]{64}", image) for image in images), images
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert set(bases) == {"${PYTHON}"}


def test_locked_versions_equal_those_of_the_tests():
    """This fails if the list was not renewed after a change of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    ours = locked("requirements.txt")
    assert {n: v for n, v in ours.items() if pins.get(n, v) != v} == {}
    assert set(ours) - set(pins) <= set(locked("build.txt"))


def test_every_requirement_is_locked():
    """Every package that fedser requires has hashes, or comes from PyTorch's index."""
    missing = needed("fedser", frozenset(), set()) - set(locked("requirements.txt"))
    assert {name for name in missing if not FROM_PYTORCH.fullmatch(name)} == set()
