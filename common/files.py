"""Files that are whole or absent and that only their owner reads."""

import errno
import json
import os
import stat
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml

PARTIAL = ".fedser-"
MOST_BYTES, MOST_YAML_BYTES = 2**26, 2**18
"""Largest text file and largest YAML file to read; YAML is slow to parse."""
MOST_DEPTH, MOST_DIGITS = 50, 18
"""Largest depth of nested values, and largest number of digits of an integer, in a file."""


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new empty file beside `path`; it replaces `path` if the block ends without error.

    The file has a random name and is created exclusively, so that no existing link is followed. If
    `path` is a link, the link is replaced, not its target.
    """
    descriptor, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        os.replace(name, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError):
            error.filename = path  # the user does not know the temporary name
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent, and wait until it is on the disk."""
    with replacing(path) as partial:
        partial.write_bytes(content)
        sync(partial)
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent; leave a file with the same content."""
    with suppress(OSError):
        check_regular(path, len(content))
        if path.read_bytes() == content:
            return
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file as `write_bytes` does."""
    write_bytes(path, text.encode())


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can enter, and the folders above it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def check_regular(path: Path, most: int | None = None) -> None:
    """Check that a path is a regular file of at most `most` bytes, and no link or device.

    Raises
    ------
    OSError
        If it is not, or does not exist.
    """
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if most is not None and about.st_size > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read an untrusted text file of at most `most` bytes.

    Raises
    ------
    OSError
        If it does not exist, is not a regular file, or is too large.
    ValueError
        If it is not UTF-8.
    """
    check_regular(path, most)
    return path.read_text("utf-8")


def read_json(path: Path) -> Any:
    """Read an untrusted JSON file.

    Raises
    ------
    OSError
        If it does not exist, is not a regular file, or is too large.
    ValueError
        If it is not JSON, is nested too deep, or has numbers or letters outside of the standard.
    """
    text = read_text(path)
    try:
        found = json.loads(
            text, parse_constant=_reject_number, parse_int=_integer, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    _check_depth(found)
    _check_text(found)
    return found


def schema_problem(schema: Mapping[str, Any], found: object) -> str | None:
    """Return one short line that says where and how a value breaks a JSON schema, or None."""
    from jsonschema import (
        Draft202012Validator,
    )  # a slow import, which help and completion must not wait for
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema).iter_errors(found))
    return f"{error.json_path}: {textwrap.shorten(error.message, 160)}" if error else None


def read_yaml(path: Path) -> Any:
    """Read an untrusted YAML file without aliases.

    Raises
    ------
    OSError
        If it does not exist, is not a regular file, or is too large.
    ValueError
        If it is not YAML, is nested too deep, or has aliases, which can expand to gigabytes.
    """
    text, depth = read_text(path, MOST_YAML_BYTES), 0
    try:
        for event in yaml.parse(text):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MOST_DEPTH:
                raise ValueError("aliases, or nested too deep")
        found = yaml.safe_load(text)
        _check_text(found)
        return found
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("not YAML that is written here") from error


def _check_text(found: Any) -> None:
    """Reject half a character (a surrogate), which no file or table can hold."""
    json.dumps(found, ensure_ascii=False, default=str, skipkeys=True).encode()


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(MOST_DEPTH):
        level = [
            below
            for value in level
            if isinstance(value, dict | list)
            for below in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ValueError("nested too deep")


def _reject_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:MOST_DIGITS]} is not a number that is written here")


def _integer(text: str) -> int:
    return int(text) if len(text) <= MOST_DIGITS else _reject_number(text)


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _reject_number(text)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of interrupted writes.

    No other process may write to the folder.
    """
    for path in folder.glob(f"{PARTIAL}*"):
        with suppress(IsADirectoryError, PermissionError):  # not made by `replacing`
            path.unlink()
