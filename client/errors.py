"""The exceptions a user is meant to see."""

import difflib
import re
from collections.abc import Collection

BAD_INPUT = 2
"""Exit status of a command line whose input was bad."""


class UserError(Exception):
    """Bad input: one line that names the file or key and says how to mend it.

    The command line prints the message alone and exits with status 2.
    """


class Suspended(UserError):
    """A run cannot go on for now: one line that says why and what to mend.

    Nothing is lost. The command line leaves the run's folder as it is, to be resumed, and exits
    with status 4.
    """


def check_choice(key: str, value: object, choices: Collection[str]) -> None:
    """Refuse a value that is not one of a key's choices.

    Raises
    ------
    UserError
        Naming the key, the choices, and the nearest of them.
    """
    if value not in choices:
        hint = nearest(str(value), choices)
        raise UserError(f"{key}={value} is not one of {', '.join(choices)}{hint}")


def nearest(word: str, choices: Collection[str], within: str = "") -> str:
    """Return a question after the choice that a word resembles, or nothing.

    Parameters
    ----------
    within : str
        What to put before the choice.
    """
    found = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {within}{found[0]}?" if found else ""


def first_line(error: Exception) -> str:
    """Return the first line that an exception says anything in."""
    return next(line.strip() for line in str(error).splitlines() if line.strip())


def brief(error: Exception) -> str:
    """Return what another library's exception says: on one line, not coloured, cut if long."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:160]
