"""What a command takes over from the folder of an earlier run, which may be somebody else's.

Such a folder is data. From its overrides come the keys that describe a run, with values that name
nothing outside of fedser: no file, no address, no class, no variable of the environment. All other
keys must be given again, by a user who can tell whether to trust them.
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

DESCRIBING = {
    *("corpus", "features", "normalisation", "model", "training", "algorithm", "privacy"),
    *("attack", "audit", "transcript", "adversary", "experiment", "shadow", "age_bounds"),
    *("rounds", "cohort_fraction", "folds", "seed", "stage", "checkpoint_every"),
    *("keep_transcript", "keep_shadows", "table", "corpora"),
}
"""Keys at the top of the configuration that describe a run."""
RUNTIMES = ("local", "ray", "gpu")
"""Values of the key ``runtime`` that name no machine but this one."""
FILES_AND_CLASSES = {"_target_", "root", "file", "path", "checkpoint", "custom"}
"""Parts of keys, anywhere below, whose values lead out of a run's description."""
MOST_BYTES, MOST_OVERRIDES = 2**18, 1000


def earlier_overrides(folder: Path, given: Sequence[str], whole: bool) -> list[str]:
    """Return the overrides to take over from a run's folder.

    Parameters
    ----------
    given : sequence of str
        Overrides of this command.
    whole : bool
        Whether the run cannot be described without all of them.

    Raises
    ------
    UserError
        If the folder holds no run, or links to somewhere else, or if a key must be given again.
    """
    refuse_links(folder)
    lines = _read(folder)
    parser = OverridesParser.create()
    try:
        earlier = [parser.parse_override(line) for line in lines]
    except (HydraException, RecursionError) as error:
        raise UserError(f"{folder / HYDRA / 'overrides.yaml'}: not overrides of Hydra") from error
    again = {override.key_or_group for override in parser.parse_overrides(list(given))}
    foreign = [o for o in earlier if not _describes(o) and o.key_or_group not in again]
    if foreign and whole:
        repeated = pasted(_with_groups(foreign, earlier))
        raise UserError(
            f"{folder}: a run's folder may be somebody else's, so that keys which name files, "
            f"programs or machines must be given again: add {repeated}"
        )
    kept = [o for o in earlier if _describes(o) and o.key_or_group not in again]
    return [str(override.input_line) for override in kept]


def must_be_given_again(overrides: Sequence[str]) -> list[str]:
    """Return those overrides that no command takes over from a run's folder."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return _with_groups([override for override in parsed if not _describes(override)], parsed)


def _with_groups(chosen: Sequence[Override], among: Sequence[Override]) -> list[str]:
    """Return overrides, and those that choose the options which these are keys of."""
    groups = {override.key_or_group.partition(".")[0] for override in chosen}
    return [
        str(override.input_line)
        for override in among
        if override in chosen or override.key_or_group in groups
    ]


def refuse_links(folder: Path) -> None:
    """Refuse a run's folder that leads to files outside of it, or holds what is no file.

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


def _read(folder: Path) -> list[str]:
    path = folder / HYDRA / "overrides.yaml"
    try:
        check_regular(path, MOST_BYTES)
        lines = read_yaml(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no earlier run; name its output folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({type(error).__name__})") from error
    whole = isinstance(lines, list) and len(lines) <= MOST_OVERRIDES
    if not whole or not all(isinstance(line, str) for line in lines):
        raise UserError(f"{path}: not a list of overrides")
    return list(lines)


def _describes(override: Override) -> bool:
    """Tell whether an override describes a run, and names nothing outside of fedser."""
    key, value = override.key_or_group, override.value()
    top, *below = key.split(".")
    if override.is_sweep_override() or override.package is not None:
        return False
    if key == "runtime":
        return value in RUNTIMES
    keys, texts = set(below), list(below)
    for text, is_key in _texts(value):
        texts.append(text)
        keys.update(text.split(".") if is_key else ())
    return top in DESCRIBING and not keys & FILES_AND_CLASSES and not any(map(_leads_out, texts))


def _leads_out(text: str) -> bool:
    return text.startswith((".", "~")) or any(part in text for part in ("/", "\\", "${"))


def _texts(value: Any) -> Iterator[tuple[str, bool]]:
    """Yield the strings in a value, at any depth, and whether each is a key of a mapping."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield _plain(key), True
            yield from _texts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _texts(below)
    elif isinstance(value, str | QuotedString):
        yield _plain(value), False


def _plain(value: Any) -> str:
    return value.text if isinstance(value, QuotedString) else str(value)
