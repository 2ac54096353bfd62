"""What is installed: every folder and file of the package, under one name."""

import os
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALLED = SETTINGS["tool"]["setuptools"]
MAPPED = {"fedser": "fedser", **INSTALLED["package-dir"]}
DATA = {".yaml", ".json", ".typed", ".csv", ".md", ".jinja", ".js", ".css"}
"""Endings of files that the package reads when it runs, and of the notes beside them."""


def packages() -> dict[str, Path]:
    """Return every folder with an ``__init__.py``, by the name under which it is imported."""
    found = {}
    for name, folder in MAPPED.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            below = init.parent.relative_to(ROOT / folder).parts
            found[".".join([name, *below])] = init.parent
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel of a copy of the source: setuptools writes to the folder that it builds."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", *MAPPED.values()):
        (source / name).symlink_to(ROOT / name)
    call = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*call, "--wheel-dir", str(built), str(source)], check=True)
    (path,) = built.glob("fedser-*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the wheel."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_folder_of_the_package_is_listed():
    assert sorted(INSTALLED["packages"]) == sorted(packages())


def test_every_folder_with_modules_is_a_package():
    for folder in MAPPED.values():
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), module


def test_the_wheel_puts_only_fedser_into_site_packages(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    (about,) = [name for name in names if name.endswith(".dist-info")]
    assert names == {"fedser", about}


def test_the_wheel_holds_every_module_and_data_file(wheel):
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("fedser/")}
    expected = set()
    for name, folder in MAPPED.items():
        for path in (ROOT / folder).rglob("*"):
            guide = path.name == "README.md" and path.parent.name != "published"
            if path.suffix in {".py", *DATA} and not guide:
                expected.add(f"{name.replace('.', '/')}/{path.relative_to(ROOT / folder)}")
    assert packed == expected
    for kind in (
        "*/conf/corpus/*.yaml",
        "*/results.schema.json",
        "*/published/*.csv",
        "*/py.typed",
    ):
        assert any(fnmatch(path, kind) for path in packed), kind


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        ("fedser", "fedser privacy=udp privacy.epsilon=25"),
        ("fedser.cli.main", "fedser privacy=udp privacy.epsilon=25"),
        ("fedser.client.node.main", "superlink"),
    ],
)
def test_the_commands_show_their_help_from_the_wheel(site, tmp_path, module, shown):
    """Entry points are called as their scripts do; folders of the user's have the same names."""
    for name in ("attacks", "client", "conf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this is not fedser')\n")
    scripts = SETTINGS["project"]["scripts"]
    call = f"import fedser; assert fedser.__file__.startswith({str(site)!r}), fedser.__file__; "
    if f"{module}:main" in scripts.values():
        call += f"from {module} import main; main()"
    else:
        call += f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['fedser', '--help']; {call}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_the_image_gets_every_folder_of_the_package():
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    let_in = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for folder in MAPPED.values():
        assert f"COPY {folder} {folder}" in dockerfile and f"!{folder}" in let_in


def test_the_citation_names_this_version_and_both_studies():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and cited["version"] == SETTINGS["project"]["version"]
    assert (
        cited["authors"] == [{"name": "fedser developers"}] and cited["title"] and cited["message"]
    )
    numbers = [each["identifiers"][0]["value"] for each in cited["references"]]
    assert numbers == ["arXiv:2112.13416", "arXiv:2204.02500"]
    assert all(each["type"] and each["title"] and each["authors"] for each in cited["references"])
