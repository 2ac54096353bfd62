"""Published corpora: the content of their folders, and where to get them."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora.base import SelectableCorpus
from fedser.client.corpora.table import FILE, Row, Table, read
from fedser.common.errors import UserError

DOCS = "docs/corpora.md"
"""Documents the folder and the source of every corpus."""


@dataclass(frozen=True)
class Part:
    """Files that the folder of a corpus must contain.

    Attributes
    ----------
    name : str
        Name of the part.
    patterns : tuple of str
        Glob patterns below the folder; the first pattern that matches a file is used.
    complete : int or None
        Number of files in the complete corpus, if it is the same for all patterns.
    """

    name: str
    patterns: tuple[str, ...]
    complete: int | None = None

    def __str__(self) -> str:
        """Return the patterns as text."""
        return " or ".join(self.patterns)

    def find(self, root: Path) -> list[Path]:
        """Return the files, relative to the folder and sorted."""
        for pattern in self.patterns:
            # Hidden files do not belong to the corpus: macOS writes ._NAME next to copied files.
            if found := sorted(f for f in root.glob(pattern) if not f.name.startswith(".")):
                return [file.relative_to(root) for file in found]
        return []


@dataclass(frozen=True)
class Source:
    """Source of a published corpus.

    Attributes
    ----------
    title, licence, address : str
        Published name, terms of use, and web address.
    parts : tuple of Part
        Content of its folder.
    recordings, speakers : int or None
        Numbers in the complete corpus, if known.
    """

    title: str
    licence: str
    address: str
    parts: tuple[Part, ...]
    recordings: int | None = None
    speakers: int | None = None


@dataclass(frozen=True)
class Published(SelectableCorpus):
    """A corpus in its published layout.

    Attributes
    ----------
    root : str
        Folder that contains the parts of `source`.
    allow_outside : bool
        Whether recordings may be links to files outside the folder.
    """

    source: ClassVar[Source]

    root: str
    allow_outside: bool = field(default=False, kw_only=True)

    def files(self) -> list[list[Path]]:
        """Return the files of every part, relative to the folder, in the order of the parts.

        Raises
        ------
        UserError
            If a part has no file: the folder is missing, empty, incomplete or has another layout.
        """
        root, parts = Path(self.root), self.source.parts
        files = [part.find(root) for part in parts]
        if all(files):
            return files
        present = [part.name for part, found in zip(parts, files, strict=True) if found]
        only = f", found only its {', '.join(present)}" if present else ""
        raise UserError(
            f"corpus {self.name}: the folder {root} {_fault(root, bool(present))} (looked for "
            f"{', '.join(map(str, parts))}{only}): set corpus.root=<folder of the corpus>; "
            f"{DOCS} describes where to get it"
        )

    def read_names(self, files: Iterable[Path], form: re.Pattern[str], example: str) -> list[Row]:
        """Read labels and attributes from the names of recordings.

        Parameters
        ----------
        files : iterable of Path
            Paths relative to the folder.
        form : re.Pattern
            Pattern of a name without suffix, with a named group for every column.
        example : str
            Name of one file of this corpus, for the error message.

        Returns
        -------
        list of Row
            The columns of `form`, and ``file``.

        Raises
        ------
        UserError
            If a file name does not match `form`.
        """
        rows = []
        for file in files:
            if (match := form.fullmatch(file.stem)) is None:
                raise UserError(
                    f"corpus {self.name}: {Path(self.root) / file} does not have a name like "
                    f"{example}: restore the original name, move the file away or correct "
                    "corpus.root"
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
        """Read the table ``utterances.csv`` if it was found, otherwise the names of the recordings.

        Parameters and errors are those of `read_names`; `describe` completes the row of a name.
        File names in the table must match `form` too: they prove that it lists this corpus.
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
