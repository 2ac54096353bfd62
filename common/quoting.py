"""Text for people: arguments to paste into a shell, and data that must stay on one line."""

import shlex
from collections.abc import Iterable


def pasted(arguments: Iterable[str]) -> str:
    """Return a command line that a shell such as Bash parses into these arguments."""
    return " ".join(map(_word, arguments))


def _word(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    escaped = argument.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{visible(escaped)}'"


def visible(text: str) -> str:
    """Return a text on one line; characters that are not printable are escaped."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
