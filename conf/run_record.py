"""The record of a run's configuration, and the keys that a later command may change."""

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
"""Keys at the top of the configuration that change no result."""
AFTER_TRAINING = {
    "stage",
    "shadow",
    "attack",
    "adversary",
    "audit",
    "plan",
    "age_bounds",
    "data_root",
}
"""Keys at the top of the configuration that a command may change when it resumes a run."""
EARLIER = ("attacks.", "client.", "server.")
"""First parts of the class paths of earlier versions; today they begin with ``fedser.``."""


def reject_used(folder: Path) -> None:
    """Reject a folder for a new run if it already holds a run.

    Raises
    ------
    UserError
        Naming the ways to go on.
    """
    if is_used(folder):
        resume = pasted([override("resume", folder)])
        raise UserError(
            f"{folder} holds a run already: set {resume} to go on with it, or set hydra.run.dir "
            "to another folder; with stage=attack and stage=report set run=FOLDER"
        )


def note_command(folder: Path, composed: DictConfig, overrides: Sequence[str]) -> None:
    """Write down the composed configuration of a command, and its overrides."""
    if {path.name for path in folder.iterdir()} <= {LOCK}:
        folder.chmod(0o700)  # otherwise somebody chose its mode
    make_private(folder / HYDRA)
    write_text(folder / HYDRA / "overrides.yaml", yaml.safe_dump(list(overrides)))
    write_text(folder / HYDRA / "config.yaml", OmegaConf.to_yaml(composed))


def note_run(folder: Path, record: Any) -> None:
    """Write down the resolved configuration that a run begins with."""
    write_text(folder / RUN_FILE, json.dumps(record, indent=2))


def changes(folder: Path, record: Mapping[str, Any], but: set[str]) -> list[str]:
    """Return one line per key whose value is not the value that a run was begun with.

    Parameters
    ----------
    record : mapping
        Today's configuration, resolved.
    but : set of str
        Keys at the top of the configuration that may differ.

    Raises
    ------
    UserError
        If the record of the run is damaged, or was written by an earlier version.
    """
    try:
        begun = read_json(folder / RUN_FILE)
        old, new = (
            dict(_flat({key: config[key] for key in config.keys() - but}))
            for config in (begun, json.loads(json.dumps(record)))
        )
        targets = [value for key, value in _flat(begun) if key.endswith("._target_")]
    except FileNotFoundError:  # killed before the record was written, or of a version without it
        return []
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / RUN_FILE}: damaged; start the run anew") from error
    if any(str(target).startswith(EARLIER) for target in targets):
        raise UserError(f"{folder} was made by an earlier version of fedser; start the run anew")
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [f"{key} was {old.get(key)} and is {new.get(key)}" for key in differing]


def reject_changes(folder: Path, record: Mapping[str, Any]) -> None:
    """Reject a configuration that would change the training of a run that has begun.

    Raises
    ------
    UserError
        Naming the keys that differ, or as `changes` does.
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
