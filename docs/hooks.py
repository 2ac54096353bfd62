"""Prepare what MkDocs builds the site from: the package as it is installed, and the notebooks."""

import posixpath
import shutil
import tomllib
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "build" / "package"


def on_startup(command: str, dirty: bool) -> None:
    """Copy the folders of the package to where they are installed, for the reference.

    The folders lie at the top of the repository, and mkdocstrings does not follow the mapping of
    setuptools.
    """
    shutil.rmtree(PACKAGE, ignore_errors=True)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name, folder in {"fedser": "fedser", **settings["package-dir"]}.items():
        shutil.copytree(ROOT / folder, PACKAGE / name.replace(".", "/"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Execute each notebook and put a page with its figures in its place.

    Notebooks are stored without outputs. A cell that fails ends the build.
    """
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        notebook = nbformat.read(Path(config.docs_dir, file.src_uri), as_version=4)
        NotebookClient(notebook, timeout=300).execute()
        folder, name = posixpath.split(file.src_uri.removesuffix(".ipynb"))
        page, found = MarkdownExporter().from_notebook_node(notebook, {"unique_key": name})
        files.remove(file)
        files.append(File.generated(config, posixpath.join(folder, f"{name}.md"), content=page))
        for output, content in found["outputs"].items():
            files.append(File.generated(config, posixpath.join(folder, output), content=content))
    return files
