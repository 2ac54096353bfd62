"""Corpora that are published: what their folders hold, and how to come by them."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora.base import Recordings
from fedser.client.corpora.table import FILE, Row, Table, read
from fedser.common.errors import UserError

DOCS = "docs/corpora.md"
"""Says of every corpus how its folder looks and where it comes from."""


@dataclass(frozen=True)
class Part:
    """Something that a corpus's folder must hold.

    Attributes
    ----------
    name : str
        What it is.
    patterns : tuple of str
        Below the folder; the first that matches any file counts.
    complete : int or None
        Files of the whole corpus, if that is known for all patterns.
    """

    name: str
    patterns: tuple[str, ...]
    complete: int | None = None

    def __str__(self) -> str:
        """Say what is looked for."""
        return " or ".join(self.patterns)

    def find(self, root: Path) -> list[Path]:
        """List the files, relative to the folder and sorted."""
        for pattern in self.patterns:
            # A hidden file is not of the corpus: macOS leaves ._NAME beside files that it copies.
            if found := sorted(f for f in root.glob(pattern) if not f.name.startswith(".")):
                return [file.relative_to(root) for file in found]
        return []


@dataclass(frozen=True)
class Source:
    """Where a corpus comes from.

    Attributes
    ----------
    title, licence, address : str
        How it is called, what may be done with it, and where to ask for it.
    parts : tuple of Part
        What its folder holds.
    recordings, speakers : int or None
        How many the whole corpus has, if that is known.
    """

    title: str
    licence: str
    address: str
    parts: tuple[Part, ...]
    recordings: int | None = None
    speakers: int | None = None


@dataclass(frozen=True)
class Published(Recordings):
    """A corpus in the layout that it is published in.

    Attributes
    ----------
    root : str
        Folder that holds the parts of `source`.
    allow_outside : bool
        Whether recordings may be links to files outside of that folder.
    """

    source: ClassVar[Source]

    root: str
    allow_outside: bool = field(default=False, kw_only=True)

    def files(self) -> list[list[Path]]:
        """List the files of every part, relative to the folder, in the order of the parts.

        Raises
        ------
        UserError
            If there are none of a part: the folder is missing, empty, incomplete or of another
            layout.
        """
        root, parts = Path(self.root), self.source.parts
        files = [part.find(root) for part in parts]
        if all(files):
            return files
        there = [part.name for part, found in zip(parts, files, strict=True) if found]
        found = f", found only its {', '.join(there)}" if there else ""
        raise UserError(
            f"corpus {self.name}: the folder {root} {_fault(root, bool(there))} (looked for "
            f"{', '.join(map(str, parts))}{found}): set corpus.root=<folder of the corpus>, "
            f"{DOCS} tells where it comes from"
        )

    def read_names(self, files: Iterable[Path], form: re.Pattern[str], example: str) -> list[Row]:
        """Read what the names of recordings tell.

        Parameters
        ----------
        files : iterable of Path
            Relative to the folder.
        form : re.Pattern
            Of a name without its suffix, with a group for every column.
        example : str
            A file of this corpus.

        Returns
        -------
        list of Row
            The columns, and ``file``.

        Raises
        ------
        UserError
            If a file is named otherwise.
        """
        rows = []
        for file in files:
            if (match := form.fullmatch(file.stem)) is None:
                raise UserError(
                    f"corpus {self.name}: {Path(self.root) / file} is not named as {example} is: "
                    "restore the corpus's own name, move the file away or correct corpus.root"
                )
            rows.append({"file": str(file), **match.groupdict()})
        return rows

    def read_listed(
        self,
        files: Sequence[Path],
        form: re.Pattern[str],
        example: str,
        describe: Callable[[Row], Row],
    ) -> Table:
        """Read the table ``utterances.csv`` if that was found, else what `describe` makes of names.

        Parameters and errors are those of `read_names`: a table of another corpus is refused too.
        """
        root = Path(self.root)
        if files != [Path(FILE)]:
            return Table.below_header(
                root, list(map(describe, self.read_names(files, form, example)))
            )
        listed = read(root / FILE)
        self.read_names((Path(row["file"]) for row in listed.rows), form, example)
        return listed


def _fault(root: Path, incomplete: bool) -> str:
    if not root.is_dir():
        return "is a file" if root.exists() else "does not exist"
    if incomplete:
        return "is incomplete"
    return "has another layout" if any(root.iterdir()) else "is empty"
