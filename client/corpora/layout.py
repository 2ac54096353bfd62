"""Find the recordings of a corpus that has no table."""

from pathlib import Path

from client.corpora import table
from client.errors import UserError


def audio_files(corpus: str, root: Path, *patterns: str) -> list[Path]:
    """List the files of the first pattern that matches any, sorted.

    Raises
    ------
    UserError
        If none does: the folder is missing or holds another layout.
    """
    for pattern in patterns:
        if found := sorted(root.glob(pattern)):
            return found
    raise unknown(corpus, root, *patterns)


def unknown(corpus: str, root: Path, *patterns: str) -> UserError:
    """Build the error for a folder that holds neither `patterns` nor the shared table."""
    fault = "has another layout" if root.is_dir() else "does not exist"
    return UserError(
        f"corpus {corpus}: the folder {root} {fault} (looked for "
        f"{', '.join((*patterns, table.FILE))}): set corpus.root=<folder of the corpus>"
    )
