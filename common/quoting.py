"""Text for people: arguments to paste into a shell, and data that must not end a line."""

import shlex
from collections.abc import Iterable


def pasted(arguments: Iterable[str]) -> str:
    """Return a command line that a shell such as Bash reads back to these arguments."""
    return " ".join(map(_word, arguments))


def _word(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    escaped = argument.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{visible(escaped)}'"


def visible(text: str) -> str:
    """Return a text on one line: what is not printable is escaped, as in backslash and n."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
