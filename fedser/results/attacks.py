"""Attack records of ``results.json``: grouped into series, ordered and compared.

An attack record is one entry of ``attacks``: one attack on one layer at one number of leaked
updates. A series holds the records that differ only in this number.
"""

import math
from collections.abc import Iterable
from typing import Any

AttackRecord = dict[str, Any]

CHANCE_AUC = 0.5
"""AUC of guessing."""


def attack_series(attacks: list[AttackRecord]) -> dict[str, list[AttackRecord]]:
    """Group attack records into series.

    Returns
    -------
    dict of str to list of dict
        Keyed by the attack's name. If several series have one name, the key also names the
        properties in which they differ: target, layer, shadow corpora, awareness, vantage,
        selection or combination. The records of a series are sorted by leaked updates, fewest
        first.
    """
    series: dict[str, list[AttackRecord]] = {}
    for attack in attacks:
        same_name = [_properties(other) for other in attacks if other["name"] == attack["name"]]
        properties = zip(_properties(attack), zip(*same_name, strict=True), strict=True)
        distinct = [own for own, values in properties if len(set(values)) > 1]
        series.setdefault(", ".join([attack["name"], *distinct]), []).append(attack)
    return {label: sorted(records, key=leaked_order) for label, records in series.items()}


def _properties(attack: AttackRecord) -> tuple[str, ...]:
    aware = "aware" if attack["aware"] else "unaware"
    place = target(attack), attack["layer"], "+".join(attack["shadow_corpora"]), aware
    return *place, attack["vantage"], attack["selection"], attack["combination"]


def leaked_order(attack: AttackRecord) -> float:
    """Return the sort key of a record: its number of leaked updates, with "all" last."""
    return math.inf if attack["leaked_updates"] == "all" else float(attack["leaked_updates"])


def at_one(records: list[AttackRecord]) -> AttackRecord | None:
    """Return the record of a series with one leaked update, or None."""
    return next((record for record in records if record["leaked_updates"] == 1), None)


def strongest(attacks: Iterable[AttackRecord | None]) -> AttackRecord | None:
    """Return the record with the highest AUC, or None if no record has an AUC.

    Attacks that recognise speakers are left out, because their AUC is over pairs of clients.
    """
    scored = [a for a in attacks if a and a["across"] is None and a["auc"] is not None]
    return max(scored, key=lambda attack: float(attack["auc"]), default=None)


def target(attack: AttackRecord) -> str:
    """Return what an attack infers, such as "gender" or "speaker across rounds"."""
    across = attack["across"]
    return str(attack["attribute"]) + (f" across {across}" if across else "")
