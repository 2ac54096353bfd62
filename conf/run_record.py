"""What a run notes of its configuration, and which keys a later command may change."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from fedser.common.errors import UserError
from fedser.common.files import make_private, read_json, write_text
from fedser.common.quoting import pasted
from fedser.common.run_folder import HYDRA, LOCK, RUN_FILE, is_used
from fedser.conf.overrides import override

FREE = {
    *("runtime", "cache", "checkpoint_every", "table", "corpora"),
    *("keep_transcript", "keep_shadows", "run", "runs", "resume", "logger"),
}
"""Keys that change no result, at the top of the configuration."""
AFTER_TRAINING = {"stage", "shadow", "attack", "adversary", "audit", "age_bounds", "data_root"}
"""Keys, at the top as well, that a command may change for a run that it goes on with."""


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds a run, for a new one.

    Raises
    ------
    UserError
        Naming the ways on.
    """
    if is_used(folder):
        resume = pasted([override("resume", folder)])
        raise UserError(
            f"{folder} holds a run already: set {resume} to go on with it, or "
            "hydra.run.dir to another folder; stage=attack and stage=report take run="
        )


def note_command(folder: Path, composed: DictConfig, overrides: Sequence[str]) -> None:
    """Write down what was asked for: a configuration, and the overrides that it comes from."""
    if {path.name for path in folder.iterdir()} <= {LOCK}:
        folder.chmod(0o700)  # whoever put something there may have reasons for its mode
    make_private(folder / HYDRA)
    write_text(folder / HYDRA / "overrides.yaml", yaml.safe_dump(list(overrides)))
    write_text(folder / HYDRA / "config.yaml", OmegaConf.to_yaml(composed))


def note_run(folder: Path, record: Any) -> None:
    """Write down with which configuration, resolved, a run begins."""
    write_text(folder / RUN_FILE, json.dumps(record, indent=2))


def changes(folder: Path, record: Mapping[str, Any], but: set[str]) -> list[str]:
    """Say in which keys a configuration differs from the one that a run was begun with.

    Parameters
    ----------
    record : mapping
        The configuration, resolved.
    but : set of str
        Keys at the top that may differ.

    Raises
    ------
    UserError
        If the note of the run is not readable.
    """
    try:
        begun = read_json(folder / RUN_FILE)
        old, new = (
            dict(_flat({key: config[key] for key in config.keys() - but}))
            for config in (begun, json.loads(json.dumps(record)))
        )
    except FileNotFoundError:  # of a version that noted none, or killed before
        return []
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / RUN_FILE}: damaged; start the run anew") from error
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [f"{key} was {old.get(key)} and is {new.get(key)}" for key in differing]


def refuse_changes(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse another configuration for a run that has begun, but for what comes after training.

    Raises
    ------
    UserError
        Saying what differs.
    """
    if found := changes(folder, record, FREE | AFTER_TRAINING):
        raise UserError(
            f"{folder} was begun with another configuration ({'; '.join(found)}): leave these "
            "keys out, or start a new run"
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
