"""Data on the terminal: shown as it is, whatever it looks like."""

from rich.text import Text

from fedser.common.quoting import visible


def plain(data: object) -> Text:
    """Return data for Rich to show as it is, in as many lines.

    Markup, such as ``[bold]``, and names of emoji mean nothing in it; control characters, which
    could move the cursor, are escaped.
    """
    return Text("\n".join(map(visible, str(data).split("\n"))))
