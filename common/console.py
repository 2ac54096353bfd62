"""Output to the terminal: data as it is, without markup."""

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
