"""Overrides that a command takes over from the folder of an earlier run.

The folder may come from another person, so it is untrusted data. A command takes over
only keys that describe a run, and only values that name nothing outside of fedser: no file, no
address, no class, no environment variable. The user must give all other keys again.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from fedser.common.errors import UserError
from fedser.common.files import check_regular, read_yaml
from fedser.common.quoting import pasted
from fedser.common.run_folder import HYDRA

SAFE_KEYS = {
    *("corpus", "features", "normalisation", "model", "training", "algorithm", "privacy"),
    *("attack", "audit", "transcript", "adversary", "experiment", "public", "shadow", "age_bounds"),
    *("rounds", "cohort_fraction", "folds", "seed", "stage", "checkpoint_every"),
    *("keep_transcript", "keep_shadows", "table", "corpora"),
}
"""Keys at the top of the configuration that describe a run."""
SAFE_RUNTIMES = ("local", "ray", "gpu")
"""Values of the key ``runtime`` that use this machine only."""
UNSAFE_PARTS = {"_target_", "root", "file", "path", "checkpoint", "custom"}
"""Parts of keys, at any depth, with values that name files or classes."""
MAX_BYTES, MAX_OVERRIDES = 2**18, 1000


def earlier_overrides(folder: Path, given: Sequence[str], complete: bool) -> list[str]:
    """Return the overrides to take over from a run's folder.

    Parameters
    ----------
    given : sequence of str
        Overrides of this command. They replace the earlier overrides of the same keys.
    complete : bool
        Whether the command needs all overrides of the earlier run. If not, overrides that are
        not safe are left out.

    Raises
    ------
    UserError
        If the folder holds no run, if it holds links, or if the user must give a key again.
    """
    reject_links(folder)
    lines = _read_lines(folder)
    parser = OverridesParser.create()
    try:
        earlier = [parser.parse_override(line) for line in lines]
    except (HydraException, RecursionError) as error:
        raise UserError(
            f"{folder / HYDRA / 'overrides.yaml'}: not overrides of Hydra; choose another run"
        ) from error
    replaced = {override.key_or_group for override in parser.parse_overrides(list(given))}
    kept = [override for override in earlier if override.key_or_group not in replaced]
    unsafe = [override for override in kept if not _is_safe(override)]
    if unsafe and complete:
        repeated = pasted(_with_groups(unsafe, earlier))
        raise UserError(
            f"{folder}: the folder may come from another person, so keys that name files, programs "
            f"or machines must be given again: add {repeated}"
        )
    return [str(override.input_line) for override in kept if _is_safe(override)]


def overrides_to_repeat(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that no command takes over from a run's folder."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return _with_groups([override for override in parsed if not _is_safe(override)], parsed)


def _with_groups(chosen: Sequence[Override], among: Sequence[Override]) -> list[str]:
    """Return the chosen overrides, and those that choose the options of the same groups."""
    groups = {override.key_or_group.partition(".")[0] for override in chosen}
    return [
        str(override.input_line)
        for override in among
        if override in chosen or override.key_or_group in groups
    ]


def reject_links(folder: Path) -> None:
    """Reject a folder that holds anything but files and folders: a link may lead out of it.

    Raises
    ------
    UserError
        Naming the link, the pipe or the device.
    """
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(above, name)
            mode = os.lstat(path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{path}: a link or a device, which no run leaves; remove it")


def _read_lines(folder: Path) -> list[str]:
    """Return the overrides in a run's folder as texts; raises UserError if there are none."""
    path = folder / HYDRA / "overrides.yaml"
    try:
        check_regular(path, MAX_BYTES)
        lines = read_yaml(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no earlier run; set the output folder of a run") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); choose another run"
        ) from error
    few = isinstance(lines, list) and len(lines) <= MAX_OVERRIDES
    if not few or not all(isinstance(line, str) for line in lines):
        raise UserError(
            f"{path}: not a list of at most {MAX_OVERRIDES} overrides; choose another run"
        )
    return list(lines)


def _is_safe(override: Override) -> bool:
    """Tell whether an override describes a run and names nothing outside of fedser."""
    key, value = override.key_or_group, override.value()
    top, *below = key.split(".")
    if override.is_sweep_override() or override.package is not None:
        return False
    if key == "runtime":
        return value in SAFE_RUNTIMES
    parts, texts = set(below), list(below)
    for text, is_key in _texts(value):
        texts.append(text)
        parts.update(text.split(".") if is_key else ())
    return top in SAFE_KEYS and not parts & UNSAFE_PARTS and not any(map(_leads_out, texts))


def _leads_out(text: str) -> bool:
    """Tell whether a text may be a path or a reference to another key or to the environment."""
    return text.startswith((".", "~")) or any(part in text for part in ("/", "\\", "${"))


def _texts(value: Any) -> Iterator[tuple[str, bool]]:
    """Yield the strings in a value, at any depth, and whether each is a key of a mapping."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield _unquoted(key), True
            yield from _texts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _texts(below)
    elif isinstance(value, str | QuotedString):
        yield _unquoted(value), False


def _unquoted(value: Any) -> str:
    return value.text if isinstance(value, QuotedString) else str(value)
