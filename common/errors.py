"""Exceptions for the user, and their texts."""

import difflib
import errno
import re
import sys
from collections.abc import Collection

from fedser.common.quoting import visible

BAD_INPUT = 2
"""Exit status after bad input."""
SUSPENDED = 4
"""Exit status after a failure at run time; the run can be resumed."""


DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""Errors of a disk that is full, read-only or broken."""

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, then go on"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable, then go on"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files, then go on"),
}


class UserError(Exception):
    """Bad input: one line that names the file or key and says how to correct it.

    The command line prints the message alone and exits with status 2.
    """


class Suspended(UserError):
    """A run cannot go on for now: one line that says why and what to do.

    Nothing is lost. The command line leaves the run's folder unchanged, so that the run can be
    resumed, and exits with status 4.
    """


def refusal(error: OSError, line: str) -> UserError:
    """Return the exception for an unusable folder: `Suspended` if the disk is at fault."""
    return (Suspended if error.errno in DISK else UserError)(line)


def os_problem(error: OSError) -> str:
    """Return one line: the file or folder that failed, the reason, and what to do."""
    where = f"{error.filename}: " if error.filename is not None else ""
    remedy = REMEDIES.get(error.errno or 0, "correct this, then go on")
    return f"{where}{error.strerror or brief(error)}; {remedy}"


def check_choice(key: str, value: object, choices: Collection[str]) -> None:
    """Reject a value that is not one of a key's choices.

    Raises
    ------
    UserError
        Naming the key, the choices, and the nearest of them.
    """
    if value not in choices:
        hint = nearest(str(value), choices)
        raise UserError(f"{key}={value} is not one of {', '.join(choices)}{hint}")


def nearest(word: str, choices: Collection[str], within: str = "") -> str:
    """Return a question that suggests the choice most like a word, or an empty text.

    Parameters
    ----------
    within : str
        Text before the suggested choice.
    """
    found = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {within}{found[0]}?" if found else ""


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text that is not empty."""
    return next(line.strip() for line in str(error).splitlines() if line.strip())


def brief(error: Exception) -> str:
    """Return an exception's text in one line of at most 160 characters, without colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:160]


def say(line: str) -> str:
    """Print one line to the error stream after the command's name; return the printed line."""
    line = visible(line)
    print(f"fedser: {line}", file=sys.stderr)
    return line
