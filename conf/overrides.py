"""Overrides of configuration keys, as Hydra reads them."""

import os
import re
from collections.abc import Sequence

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


def home_expanded(arguments: Sequence[str]) -> list[str]:
    """Return arguments in which ``KEY=~/FOLDER`` names a folder of the user's home.

    Some shells leave the tilde there, and Hydra reads none.
    """
    found = [(argument, HOME.fullmatch(argument)) for argument in arguments]
    return [
        override(match[1], os.path.expanduser(match[2])) if match else argument
        for argument, match in found
    ]
