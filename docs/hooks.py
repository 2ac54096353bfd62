"""Notebooks as pages of the site, executed when it is built: they are stored without outputs."""

import posixpath
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page, and its figures, in the place of each notebook; a cell that fails ends it."""
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
