"""Text for people: arguments to paste into a shell, and data that must not end a line."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.types import Quote, QuotedString

PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.@+-]*")
WORDS = ("null", "true", "false", "nan", "inf")
"""Values that Hydra reads as something else than a text, in any case."""
REFERENCE = re.compile(r"(\\*)\$\{")
HOME = re.compile(r"([^=~]+)=(~(?:/.*)?)", re.DOTALL)


def override(key: str, value: object) -> str:
    """Return ``KEY=VALUE`` as Hydra reads it back to this text; the shell may need more quotes."""
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return f"{key}={text}"
    # For OmegaConf, no reference to another key.
    literal = REFERENCE.sub(lambda found: 2 * found[1] + r"\${", text)
    return f"{key}={QuotedString(literal, Quote.double).with_quotes()}"


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


def home_expanded(arguments: Sequence[str]) -> list[str]:
    """Return arguments in which ``KEY=~/FOLDER`` names a folder of the user's home.

    Some shells leave the tilde there, and Hydra reads none.
    """
    found = [(argument, HOME.fullmatch(argument)) for argument in arguments]
    return [
        override(match[1], os.path.expanduser(match[2])) if match else argument
        for argument, match in found
    ]
