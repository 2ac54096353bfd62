"""Rules for the names of speakers and corpora, which appear in reports and tables."""

import re
import unicodedata

MAX_CHARACTERS = 64
"""Largest number of characters of a name."""

NUMBER = re.compile(r"0*([0-9]+)(?:\.0*)?")

MARKS = " _-.:,()+#@'/"
"""Characters allowed in a name besides letters, marks and digits of any script."""


def name_fault(name: object) -> str | None:
    """Return why an object is not a valid name, or None if it is valid.

    A name is printable text of at most `MAX_CHARACTERS` characters in composed Unicode (NFC),
    without control characters and markup. It begins with a letter, a digit or an underscore, so
    it cannot be a path, an option or a formula.
    """
    if not isinstance(name, str):
        return "is not text"
    if not 1 <= len(name) <= MAX_CHARACTERS:
        return f"has {len(name)} characters; 1 to {MAX_CHARACTERS} are allowed"
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
    """Return a key that is the same for two names that differ only in spelling.

    Spelling means case, Unicode form, spaces, and the forms ``2``, ``02`` and ``2.0`` of a number,
    because spreadsheets convert one form into another.
    """
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    number = NUMBER.fullmatch(plain)
    return number[1] if number else plain


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"
