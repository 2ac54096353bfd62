"""Overrides of configuration keys in the syntax of Hydra."""

import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.types import Quote, QuotedString

PLAIN = re.compile(r"(?!\.[0-9])[A-Za-z_/.][A-Za-z0-9_/.@+-]*")
"""Texts that need no quotes; Hydra reads ``.5`` as a number."""
WORDS = ("null", "true", "false", "nan", "inf")
"""Words that Hydra does not read as text, in upper or lower case."""
REFERENCE = re.compile(r"(\\*)\$\{")
HOME = re.compile(r"([^=~]+)=(~(?:/.*)?)", re.DOTALL)


def override(key: str, value: object) -> str:
    """Return ``KEY=VALUE`` so that Hydra reads the same text; the shell may need more quotes."""
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return f"{key}={text}"
    # Escaped, so that OmegaConf does not read a reference to another key.
    literal = REFERENCE.sub(lambda found: 2 * found[1] + r"\${", text)
    return f"{key}={QuotedString(literal, Quote.double).with_quotes()}"


def home_expanded(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the home folder in place of ``~`` in ``KEY=~/FOLDER``.

    Some shells do not expand this tilde, and Hydra does not either.
    """
    found = [(argument, HOME.fullmatch(argument)) for argument in arguments]
    return [
        override(match[1], os.path.expanduser(match[2])) if match else argument
        for argument, match in found
    ]
