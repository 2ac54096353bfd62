"""Output to the terminal: unmarked data, and the line that ends a run."""

import sys

from rich.console import Console
from rich.text import Text

from fedser.common.quoting import visible

console = Console(stderr=True)


def plain(data: object) -> Text:
    """Return data as text that Rich prints unchanged, with its line breaks.

    Markup such as ``[bold]`` and names of emoji have no effect. Control characters are escaped,
    because they could move the cursor.
    """
    return Text("\n".join(map(visible, str(data).split("\n"))))


def say(line: str) -> str:
    """Print one line to the error stream after the command's name; return the printed line."""
    line = visible(line)
    print(f"fedser: {line}", file=sys.stderr)
    return line
