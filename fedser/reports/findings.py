"""The three findings of a run in plain sentences: utility, leakage and privacy."""

from typing import NamedTuple

from fedser.reports.numbers import (
    NBSP,
    counted,
    decimal,
    delta_text,
    fold_range,
    guarantee_text,
    interval_text,
    nominal_claim,
    percent,
    relation_text,
    updates_text,
)
from fedser.results.attacks import CHANCE_AUC, AttackRecord, at_one, strongest, target
from fedser.results.files import Results
from fedser.results.utility import chance_uar, fold_values, reference_uars
from fedser.server.privacy.statement import LARGEST_DELTA, epsilon_text

# Tiers of "How to DP-fy ML" (Ponomareva et al., 2023, arXiv:2303.00654).
STRONG_EPSILON, REASONABLE_EPSILON = 1.0, 10.0
NEAR_CHANCE = 0.05
CLEAR_AUC = 0.6
PAIRS = {
    "rounds": "sets of updates come from one client",
    "shards": "clients belong to one speaker",
}
"""By `across`: the statement that an attack accepts or rejects for each pair."""


class Finding(NamedTuple):
    """One of the three findings: a title, a short figure, a sentence and details."""

    title: str
    figure: str
    sentence: str
    details: list[str]


def utility_finding(results: Results) -> Finding:
    """Return how well the model recognises emotions of speakers outside the training data."""
    utility, guessing = results["utility"], chance_uar(results)
    chance = f"{100 * guessing:.0f}{NBSP}%"
    uar, title = utility["uar"], "Utility"
    if uar is None:
        return Finding(title, "not measured", "Emotion recognition was not measured.", [])
    folds = fold_values(results)
    details = [
        "test UAR, speakers outside the training data",
        f"chance {chance}, accuracy {percent(utility['accuracy'])}",
    ]
    if len(folds) > 1:
        details.insert(1, fold_range(folds))
    details += [f"{label} {percent(uar)}" for label, uar in reference_uars(results).items()]
    if uar <= guessing + NEAR_CHANCE:
        sentence = (
            f"Emotion recognition is close to guessing: UAR {percent(uar)}, guessing {chance}."
        )
    else:
        sentence = (
            f"The model recognises {percent(uar)} of the utterances of an emotion, averaged over "
            "emotions (UAR). The test speakers are outside the training data. "
            f"Guessing gives {chance}."
        )
    if (public := utility.get("public_uar")) is not None:
        sentence += (
            f" Public speech alone gives {percent(public)}: only the difference was learned from "
            "the clients."
        )
    if (unprotected := utility.get("unprotected_uar")) is not None:
        sentence += f" Without the mechanism the clients reach {percent(unprotected)}."
    return Finding(title, f"{percent(uar)} UAR", sentence, details)


def leakage_finding(series: dict[str, list[AttackRecord]]) -> Finding:
    """Return what the strongest attack infers from one and from the most leaked updates."""
    title = "Leakage"
    if not series:
        sentence = "No attack was run. Nothing is known about what the updates reveal."
        return Finding(title, "not attacked", sentence, [])
    if all(records[0]["across"] for records in series.values()):
        return _recognition_finding(title, [records[-1] for records in series.values()])
    one = strongest(at_one(records) for records in series.values())
    most = strongest(records[-1] for records in series.values())
    shown = [attack for attack in (one, most) if attack]
    if not shown:
        sentence = "The attacks have no AUC: in every fold all victims are of one class."
        return Finding(title, "undefined", sentence, [])
    shown = shown[:1] if one is most else shown
    details = [
        f"{attack['attribute']} from {updates_text(attack)}: AUC {decimal(attack['auc'])} "
        f"({interval_text(attack)}; {attack['name']})"
        for attack in shown
    ]
    details.append(f"strongest of {counted(len(series), 'attack')}; guessing gives 0.5")
    figure = "AUC " + " → ".join(decimal(attack["auc"]) for attack in shown)
    leading = max(shown, key=lambda attack: float(attack["auc"]))
    return Finding(title, figure, _leakage_sentence(leading), details)


def _recognition_finding(title: str, most: list[AttackRecord]) -> Finding:
    """Return how well speakers are recognised from the most leaked updates."""
    best: list[AttackRecord] = []
    for across in PAIRS:
        scored = [a for a in most if a["across"] == across and a["eer"] is not None]
        best += sorted(scored, key=lambda attack: float(attack["eer"]))[:1]
    if not best:
        sentence = "The attacks have no equal error rate: there are no pairs to decide on."
        return Finding(title, "undefined", sentence, [])
    details = [
        f"{target(attack)} from {updates_text(attack)}: EER {percent(attack['eer'])}, AUC "
        f"{decimal(attack['auc'])} ({interval_text(attack)}; {attack['name']})"
        for attack in best
    ]
    eer = percent(best[0]["eer"])
    proof = "" if leaks(best[0]) else " The difference to guessing is not proven."
    sentence = (
        f"The adversary decides whether two {PAIRS[best[0]['across']]}, from "
        f"{updates_text(best[0])} on each side. The equal error rate is {eer}; guessing gives "
        f"50{NBSP}%.{proof}"
    )
    return Finding(title, f"EER {eer}", sentence, details)


def _leakage_sentence(attack: AttackRecord) -> str:
    auc, attribute = decimal(attack["auc"]), attack["attribute"]
    if leaks(attack):
        return (
            f"The updates reveal the speaker's {attribute}: from {updates_text(attack)} of a "
            f"client, the adversary ranks {percent(attack['auc'])} of the pairs of victims "
            f"correctly (AUC {auc}). Guessing gives 50{NBSP}%."
        )
    chance = "" if attack["ci95_auc"] else " Without an interval this AUC may be chance."
    return (
        f"No attack shows that the updates reveal the speaker's {attribute} (best AUC {auc}, "
        f"{interval_text(attack)}).{chance} With {attack['speakers']} speakers this does not "
        "prove that they reveal nothing."
    )


def privacy_finding(results: Results) -> Finding:
    """Return the guarantee that holds, or that there is none."""
    privacy, title = results["privacy"], "Privacy"
    epsilon, nominal = privacy["epsilon"], privacy["nominal_epsilon"]
    details = [f"mechanism: {privacy['mechanism']}"]
    claim = None if nominal is None else nominal_claim(nominal, privacy["nominal_delta"])
    details += [claim] if claim else []
    if epsilon is None:
        sentence = "No formal privacy guarantee holds for this run."
        if claim:
            sentence = f"No formal privacy guarantee holds. The {claim} is not a proven bound."
        return Finding(title, "no guarantee", sentence, details)
    details = [*_guarantee_details(results), *details, *_fold_details(results)]
    strength = _strength(epsilon, privacy["delta"], privacy["units"])
    guarantee = guarantee_text(epsilon, privacy["delta"], privacy["unit"])
    sentence = f"The formal guarantee is {strength}: {guarantee}"
    known = privacy["epsilon_known_participation"]
    if known is not None:
        sentence += (
            f" if participation is secret. If participation is known, ε is {epsilon_text(known)}"
        )
    sentence += f". The guarantee holds against {privacy['vantage'].rstrip('.')}."
    if privacy["noise"] == "seeded":
        details.append("reproducible noise: this run protects nobody")
        sentence = (
            "This run protects nobody, because its noise follows from the seed. With secret "
            f"noise the following would hold. {sentence}"
        )
    return Finding(title, f"ε = {epsilon_text(epsilon)}", sentence, details)


def _guarantee_details(results: Results) -> list[str]:
    privacy = results["privacy"]
    unit = f"one {privacy['unit']} ({relation_text(privacy['relation'])})"
    details = [f"at δ = {delta_text(privacy['delta'])}, for {unit}"]
    participation = f"participation {privacy['participation']}"
    if (known := privacy["epsilon_known_participation"]) is not None:
        replaced = epsilon_text(privacy["epsilon_known_replace_one"])
        participation += (
            f"; if it is known: ε = {epsilon_text(known)} (zero-out), {replaced} (replace-one)"
        )
    return [*details, participation]


def _fold_details(results: Results) -> list[str]:
    privacy, folds = results["privacy"], len(results["utility"]["per_fold"])
    if folds < 2:
        return []
    if privacy["cross_validation"] == "released":
        one = epsilon_text(privacy["epsilon_one_federation"])
        return [f"all {folds} folds together; one fold alone: ε = {one}"]
    return ["one fold alone: the other folds are declared as evaluation only"]


def _strength(epsilon: float, delta: float, units: int) -> str:
    if delta * units >= 1:
        return "void, because its δ allows it to fail completely for one unit"
    if delta * units > LARGEST_DELTA:
        return "doubtful, because its δ is large for this number of units"
    if epsilon <= STRONG_EPSILON:
        return "strong"
    return "moderate" if epsilon <= REASONABLE_EPSILON else "too weak to rely on"


def leaks(attack: AttackRecord) -> bool:
    """Return whether the AUC has an interval that lies above guessing."""
    return bool(attack["ci95_auc"]) and attack["ci95_auc"][0] > CHANCE_AUC


def attack_remark(attack: AttackRecord) -> str:
    """Return a warning about a record that a reader could misread, or an empty text."""
    auc, fixed, bounds = attack["auc"], attack["uar_fixed"], attack["ci95_auc"]
    across = attack["across"]
    if auc is None:
        if across:
            return f"no AUC: no two {PAIRS[across]}"
        return "no AUC: in every fold all victims are of one class"
    if bounds and bounds[1] < CHANCE_AUC:
        ranked, leaked = ("pairs", "speaker") if across else ("victims", "attribute")
        return f"ranks {ranked} in the wrong order, so the update still reveals the {leaked}"
    clear = leaks(attack) if bounds else auc >= CLEAR_AUC
    if clear and fixed is not None and abs(fixed - CHANCE_AUC) <= NEAR_CHANCE:
        return "a fixed threshold misses this leak"
    return ""
