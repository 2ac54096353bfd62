"""The file `results.json`: checked against its schema on the way out and on the way in."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path, PureWindowsPath
from statistics import fmean
from typing import Any

from fedser.client.corpora.base import EMOTIONS
from fedser.common.errors import UserError
from fedser.common.files import read_json, schema_problem, write_text

Results = dict[str, Any]
AttackRecord = dict[str, Any]

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
"""Schema of ``training.json``: the parts of the results that training leaves."""


def without_folders(value: Any) -> Any:
    """Return a configuration as others may read it: without folders and addresses of its user.

    ``/home/somebody/ravdess`` becomes ``…/ravdess``, and ``https://user:secret@host`` becomes
    ``https://…``.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if isinstance(value, str) and ABSOLUTE.match(value):
        return f"…/{PureWindowsPath(value).name}"  # of either kind of slash
    return ADDRESS.sub(r"\1…", value) if isinstance(value, str) else value


def write_results(path: Path, results: Results) -> None:
    """Check the results and write them in one step, so that no reader meets half a file.

    Parameters
    ----------
    path : Path
        The file to write; its folder exists.
    results : dict
        As described in `results.schema.json`. Tuples are written as lists.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or the results break the schema.
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
        If the file is missing, cut short, or not a results file of this version.
    """
    mend = "run fedser stage=attack"
    try:
        results = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there are no results yet; {mend} first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a complete JSON file ({error}); {mend} again") from None
    problem = results_problem(results)
    if problem:
        raise UserError(f"{path}: not a results file of this version ({problem}); {mend} again")
    return dict(results)


def read_training(folder: Path) -> dict[str, Any]:
    """Read what training left for the results.

    Raises
    ------
    UserError
        If the folder holds no finished training, or one that is not of this version.
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
    """Where and how the results break the schema in one short line, or None."""
    if problem := schema_problem(SCHEMA, results):
        return problem
    assert isinstance(results, Mapping)  # as the schema has it
    return _unpaired(results)


def fold_chance(fold: Mapping[str, Any]) -> float:
    """Return the test UAR of guessing in a fold: one over the number of emotions in its test set.

    A model that always names one of them has it. All emotions, if there is no confusion matrix.
    """
    occurring = [row for row in fold.get("confusion", []) if any(row)]
    return 1 / (len(occurring) or len(EMOTIONS))


def chance_uar(results: Results) -> float:
    """Return the test UAR of guessing: the mean over folds, as the test UAR is."""
    return fmean(map(fold_chance, results["utility"]["per_fold"] or [{}]))


def attack_series(attacks: list[AttackRecord]) -> dict[str, list[AttackRecord]]:
    """Group the attack records that differ only in how many updates leaked.

    Returns
    -------
    dict of str to list of dict
        Keyed by the attack's name, with the attribute (and what speakers are recognised
        across), layer, shadow corpora, awareness, vantage, selection or combination added where
        attacks of one name differ in it; fewest leaked updates first.
    """
    series: dict[str, list[AttackRecord]] = {}
    for attack in attacks:
        namesakes = [_traits(other) for other in attacks if other["name"] == attack["name"]]
        traits = zip(_traits(attack), zip(*namesakes, strict=True), strict=True)
        distinct = [trait for trait, values in traits if len(set(values)) > 1]
        series.setdefault(", ".join([attack["name"], *distinct]), []).append(attack)
    return {label: sorted(records, key=leaked_order) for label, records in series.items()}


def leaked_order(attack: AttackRecord) -> float:
    """Sort key: the number of leaked updates, with "all" last."""
    return math.inf if attack["leaked_updates"] == "all" else float(attack["leaked_updates"])


def at_one(records: list[AttackRecord]) -> AttackRecord | None:
    """The record of one series with a single leaked update, if it was attacked."""
    return next((record for record in records if record["leaked_updates"] == 1), None)


def strongest(attacks: Iterable[AttackRecord | None]) -> AttackRecord | None:
    """The record of the highest AUC, if any has one.

    Attacks that recognise speakers again are left out: their AUC is over pairs of clients.
    """
    scored = [a for a in attacks if a and a["across"] is None and a["auc"] is not None]
    return max(scored, key=lambda attack: float(attack["auc"]), default=None)


def target(attack: AttackRecord) -> str:
    """What an attack is after: an attribute, or to recognise a speaker across something."""
    across = attack["across"]
    return str(attack["attribute"]) + (f" across {across}" if across else "")


def _traits(attack: AttackRecord) -> tuple[str, ...]:
    aware = "aware" if attack["aware"] else "unaware"
    place = target(attack), attack["layer"], "+".join(attack["shadow_corpora"]), aware
    return *place, attack["vantage"], attack["selection"], attack["combination"]


def _unpaired(results: Mapping[str, Any]) -> str | None:
    """Say where lists that belong together differ in length, which no schema can ask for."""
    for number, attack in enumerate(results["attacks"]):
        if (roc := attack["roc"]) and len(roc["fpr"]) != len(roc["tpr"]):
            return f"$.attacks[{number}].roc: fpr and tpr differ in length"
    for number, fold in enumerate(results["utility"]["per_fold"]):
        confusion = fold.get("confusion", [])
        if any(len(row) != len(confusion) for row in confusion):
            return f"$.utility.per_fold[{number}].confusion: not square"
    return None
