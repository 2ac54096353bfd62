"""The exceptions a user is meant to see."""

import difflib
import errno
import re
from collections.abc import Collection

BAD_INPUT = 2
"""Exit status of a command line whose input was bad."""
SUSPENDED = 4
"""Exit status of one that failed at run time and can go on."""


DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""Errors of a disk that is full, read-only or broken."""

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, then go on"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable, then go on"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files, then go on"),
}


class UserError(Exception):
    """Bad input: one line that names the file or key and says how to mend it.

    The command line prints the message alone and exits with status 2.
    """


class Suspended(UserError):
    """A run cannot go on for now: one line that says why and what to mend.

    Nothing is lost. The command line leaves the run's folder as it is, to be resumed, and exits
    with status 4.
    """


def refusal(error: OSError, line: str) -> UserError:
    """Return what to raise of a folder that cannot be used: `Suspended` if the disk is at fault."""
    return (Suspended if error.errno in DISK else UserError)(line)


def os_problem(error: OSError) -> str:
    """Say which file or folder the system failed on, why, and what to do."""
    where = f"{error.filename}: " if error.filename is not None else ""
    remedy = REMEDIES.get(error.errno or 0, "mend that, then go on")
    return f"{where}{error.strerror or brief(error)}; {remedy}"


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
