"""Write and read ``results.json``, and read ``training.json``; check both against the schema.

The files are also checked when they are read, because a run folder may come from somebody else.
"""

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path, PureWindowsPath
from typing import Any

from fedser.common.errors import UserError
from fedser.common.files import read_json, schema_problem, write_text

Results = dict[str, Any]
"""The content of ``results.json``."""

ABSOLUTE = re.compile(r"[~/\\]|[A-Za-z]:[/\\]")
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://).+", re.DOTALL)

SCHEMA = json.loads(
    resources.files("fedser.results").joinpath("results.schema.json").read_text("utf-8")
)
_PARTS = {
    **{k: SCHEMA["properties"][k] for k in ("corpus", "clients", "speakers", "utility", "privacy")},
    "rounds_per_second": SCHEMA["$defs"]["timing"]["properties"]["rounds_per_second"],
    "seconds": SCHEMA["$defs"]["timing"]["properties"]["train_seconds"],
}
TRAINING: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": list(_PARTS),
    "properties": _PARTS,
    "$defs": SCHEMA["$defs"],
}
"""Schema of ``training.json``: the parts of the results that are known after training."""


def without_folders(value: Any) -> Any:
    """Return a configuration without the user's folders and addresses, so that it can be shared.

    ``/home/somebody/ravdess`` becomes ``…/ravdess``, and ``https://user:secret@host`` becomes
    ``https://…``.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if isinstance(value, str) and ABSOLUTE.match(value):
        return f"…/{PureWindowsPath(value).name}"  # a Windows path reads both kinds of slash
    return ADDRESS.sub(r"\1…", value) if isinstance(value, str) else value


def write_results(path: Path, results: Results) -> None:
    """Check the results and write them in one step, so that no reader sees half a file.

    Parameters
    ----------
    path : Path
        The file to write. Its folder must exist.
    results : dict
        As described in `results.schema.json`. Tuples are written as lists.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or if the results break the schema.
    """
    text = json.dumps(results, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True)
    problem = results_problem(json.loads(text))
    if problem:
        raise ValueError(f"results break their schema at {problem}")
    write_text(path, text + "\n")


def read_results(path: Path) -> Results:
    """Read a results file.

    Raises
    ------
    UserError
        If the file is missing, incomplete or not a results file of this version.
    """
    remedy = "run fedser stage=attack"
    try:
        results = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there are no results yet; {remedy} first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a complete JSON file ({error}); {remedy} again") from None
    problem = results_problem(results)
    if problem:
        raise UserError(f"{path}: not a results file of this version ({problem}); {remedy} again")
    return dict(results)


def read_training(folder: Path) -> dict[str, Any]:
    """Read ``training.json`` from a run folder.

    Raises
    ------
    UserError
        If training is not finished, or if the file is not of this version.
    """
    path = folder / "training.json"
    try:
        training = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no finished training; run fedser stage=train") from error
    if problem := schema_problem(TRAINING, training):
        raise UserError(f"{path}: not of this version ({problem}); run fedser stage=train again")
    return dict(training)


def results_problem(results: object) -> str | None:
    """Return in one short line where and how the results break the schema, or None."""
    if problem := schema_problem(SCHEMA, results):
        return problem
    assert isinstance(results, Mapping)  # the schema requires an object
    return _length_problem(results)


def _length_problem(results: Mapping[str, Any]) -> str | None:
    """Return where lists differ in length that must be equally long; a schema cannot check this."""
    for number, attack in enumerate(results["attacks"]):
        if (roc := attack["roc"]) and len(roc["fpr"]) != len(roc["tpr"]):
            return f"$.attacks[{number}].roc: fpr and tpr differ in length"
    for number, fold in enumerate(results["utility"]["per_fold"]):
        confusion = fold.get("confusion", [])
        if any(len(row) != len(confusion) for row in confusion):
            return f"$.utility.per_fold[{number}].confusion: not square"
    return None
