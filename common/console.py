"""What the terminal shows: data as it is, whatever it looks like, and the line that ends a run."""

import sys

from rich.console import Console
from rich.text import Text

from fedser.common.quoting import visible

console = Console(stderr=True)


def plain(data: object) -> Text:
    """Return data for Rich to show as it is, in as many lines.

    Markup, such as ``[bold]``, and names of emoji mean nothing in it; control characters, which
    could move the cursor, are escaped.
    """
    return Text("\n".join(map(visible, str(data).split("\n"))))


def say(line: str) -> str:
    """Print one line to the error stream, after the command's name; return it as it was printed."""
    line = visible(line)
    print(f"fedser: {line}", file=sys.stderr)
    return line
