"""What a speaker or a corpus may be called: what is said of people ends in reports and tables."""

import re
import unicodedata

LONGEST = 64
"""Characters of a name."""

NUMBER = re.compile(r"0*([0-9]+)(?:\.0*)?")

MARKS = " _-.:,()+#@'/"
"""What may stand in a name besides letters, marks and digits of any script."""


def name_fault(name: object) -> str | None:
    """Return why something is no name, or None if it is one.

    A name is printable text of at most `LONGEST` characters in composed Unicode (NFC). It begins
    with a letter, a digit or an underscore, so that it is no path, no option and no formula, and
    has neither control characters nor markup in it.
    """
    if not isinstance(name, str):
        return "is not text"
    if not 1 <= len(name) <= LONGEST:
        return f"has {len(name)} characters; 1 to {LONGEST} are allowed"
    if name != name.strip() or not (_is_letter(name[0]) or name[0] == "_"):
        return "does not begin with a letter, a digit or '_', or ends with a space"
    for character in name:
        if character not in MARKS and not _is_letter(character):
            return f"has a character {ascii(character)}; use letters, digits and {MARKS}"
    if ".." in name:
        return "has '..' in it"
    if not unicodedata.is_normalized("NFC", name):
        return "is not in composed Unicode (NFC)"
    return None


def identity(name: str) -> str:
    """Return what two names have in common if they differ only in how they are written.

    That is in case, in the form of Unicode, in spaces, or as ``2``, ``02`` and ``2.0`` do, which
    spreadsheets make of one another.
    """
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    number = NUMBER.fullmatch(plain)
    return number[1] if number else plain


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"
