"""The verdict of a run in plain words: utility, leakage and privacy."""

from typing import NamedTuple

from fedser.reports import figures
from fedser.results.attacks import AttackRecord, at_one, strongest, target
from fedser.results.files import Results
from fedser.results.utility import chance_uar
from fedser.server.privacy.statement import LARGEST_DELTA, epsilon_text

# Tiers of "How to DP-fy ML" (Ponomareva et al., 2023, arXiv:2303.00654).
STRONG_EPSILON, REASONABLE_EPSILON = 1.0, 10.0
NBSP = "\N{NO-BREAK SPACE}"
NEAR_CHANCE = 0.05
CLEAR_AUC = 0.6
TWO_ARE = {"rounds": "sets of updates are of one client", "shards": "clients are of one speaker"}
"""What is told apart where speakers are recognised again."""


class Finding(NamedTuple):
    """One of the three figures of the verdict."""

    title: str
    figure: str
    sentence: str
    details: list[str]


def utility_finding(results: Results) -> Finding:
    """How well emotions are recognised on speakers the model never heard."""
    utility, guessing = results["utility"], chance_uar(results)
    chance = f"{100 * guessing:.0f}{NBSP}%"
    uar, title = utility["uar"], "Utility"
    if uar is None:
        return Finding(title, "not measured", "Emotion recognition was not measured.", [])
    folds = [fold["uar"] for fold in utility["per_fold"] if fold["uar"] is not None]
    details = [
        "test UAR, speakers the model never heard",
        f"chance {chance}, accuracy {percent(utility['accuracy'])}",
    ]
    if len(folds) > 1:
        details.insert(1, f"{len(folds)} folds, {percent(min(folds))} to {percent(max(folds))}")
    if uar <= guessing + NEAR_CHANCE:
        sentence = f"Emotion recognition is near guessing: {percent(uar)} UAR against {chance}."
    else:
        sentence = (
            f"On speakers it never heard, the model recognises {percent(uar)} of an emotion's "
            f"utterances, averaged over emotions; guessing gives {chance}."
        )
    return Finding(title, f"{percent(uar)} UAR", sentence, details)


def leakage_finding(series: dict[str, list[AttackRecord]]) -> Finding:
    """What the strongest attack reads from one and from the most leaked updates."""
    title = "Leakage"
    if not series:
        sentence = "No attack was run, so nothing is known about what the updates give away."
        return Finding(title, "not attacked", sentence, [])
    if all(records[0]["across"] for records in series.values()):
        return _recognition_finding(title, [records[-1] for records in series.values()])
    one = strongest(at_one(records) for records in series.values())
    most = strongest(records[-1] for records in series.values())
    shown = [attack for attack in (one, most) if attack]
    if not shown:
        sentence = "The attacks have no AUC: in no fold are the victims of both classes."
        return Finding(title, "undefined", sentence, [])
    shown = shown[:1] if one is most else shown
    details = [
        f"{attack['attribute']} from {figures.updates(attack)}: AUC {decimal(attack['auc'])} "
        f"({interval(attack)}; {attack['name']})"
        for attack in shown
    ]
    details.append(f"strongest of {len(series)} attack{'s' * (len(series) > 1)}; 0.5 is guessing")
    figure = "AUC " + " → ".join(decimal(attack["auc"]) for attack in shown)
    leading = max(shown, key=lambda attack: float(attack["auc"]))
    return Finding(title, figure, _leakage_sentence(leading), details)


def _recognition_finding(title: str, most: list[AttackRecord]) -> Finding:
    """How well speakers are recognised again from the most leaked updates."""
    best: list[AttackRecord] = []
    for across in TWO_ARE:
        scored = [a for a in most if a["across"] == across and a["eer"] is not None]
        best += sorted(scored, key=lambda attack: float(attack["eer"]))[:1]
    if not best:
        sentence = "The attacks have no equal error rate: there are no pairs to tell apart."
        return Finding(title, "undefined", sentence, [])
    details = [
        f"{target(attack)} from {figures.updates(attack)}: EER {percent(attack['eer'])}, AUC "
        f"{decimal(attack['auc'])} ({interval(attack)}; {attack['name']})"
        for attack in best
    ]
    eer = percent(best[0]["eer"])
    chance = "" if leaks(best[0]) else ", and this is not proven to be less"
    sentence = (
        f"From {figures.updates(best[0])} a side, the adversary tells whether two "
        f"{TWO_ARE[best[0]['across']]} with an equal error rate of {eer}; "
        f"guessing gives 50{NBSP}%{chance}."
    )
    return Finding(title, f"EER {eer}", sentence, details)


def _leakage_sentence(attack: AttackRecord) -> str:
    auc, attribute = decimal(attack["auc"]), attack["attribute"]
    held = figures.updates(attack)
    if leaks(attack):
        return (
            f"The updates give the speaker's {attribute} away: from {held} of a client, the "
            f"adversary ranks {percent(attack['auc'])} of victim pairs correctly "
            f"(AUC {auc}); guessing gives 50{NBSP}%."
        )
    reach = "" if attack["ci95_auc"] else ", but without an interval this may be chance"
    return (
        f"No attack shows that the updates give the speaker's {attribute} away (AUC {auc} at "
        f"best, {interval(attack)}{reach}); with {attack['speakers']} speakers this does not "
        "prove that they keep it."
    )


def privacy_finding(results: Results) -> Finding:
    """The guarantee that really holds, or that there is none."""
    privacy, title = results["privacy"], "Privacy"
    epsilon, delta = privacy["epsilon"], privacy["delta"]
    claim = f"nominal ε = {nominal_text(privacy['nominal_epsilon'])}"
    if privacy["nominal_delta"] is not None:
        claim += f" at δ = {delta_text(privacy['nominal_delta'])}"
    details = [f"mechanism: {privacy['mechanism']}"]
    details += [claim] if privacy["nominal_epsilon"] is not None else []
    if epsilon is None:
        sentence = "No formal privacy guarantee holds for this run."
        if privacy["nominal_epsilon"] is not None:
            sentence = f"No formal privacy guarantee holds; the {claim} is not a proven bound."
        return Finding(title, "no guarantee", sentence, details)
    guarantee = f"ε = {epsilon_text(epsilon)} at δ = {delta_text(delta)} for one {privacy['unit']}"
    relation = privacy["relation"].replace("_", "-")
    details.insert(0, f"at δ = {delta_text(delta)}, for one {privacy['unit']} ({relation})")
    details.insert(1, f"participation {privacy['participation']}")
    known = privacy["epsilon_known_participation"]
    if known is not None:
        guarantee += f" while participation is secret, ε = {epsilon_text(known)} once it is known"
        replaced = epsilon_text(privacy["epsilon_known_replace_one"])
        details[1] += f", ε = {epsilon_text(known)} once known (zero-out; replace-one {replaced})"
    one, folds = privacy["epsilon_one_federation"], len(results["utility"]["per_fold"])
    if folds > 1 and privacy["cross_validation"] == "released":
        details.append(f"all {folds} folds together; one fold alone: ε = {epsilon_text(one)}")
    elif folds > 1:
        details.append("one fold alone: cross-validation is declared as evaluation only")
    strength = _strength(epsilon, delta, privacy["units"])
    sentence = f"The formal guarantee is {strength}: {guarantee}. It holds against "
    sentence += f"{privacy['vantage'].rstrip('.')}."
    if privacy["noise"] == "seeded":
        details.append("reproducible noise: the run itself protects nobody")
        sentence = (
            f"The noise follows from the seed, so this run protects nobody. With secret noise: "
            f"{sentence[0].lower()}{sentence[1:]}"
        )
    return Finding(title, f"ε = {epsilon_text(epsilon)}", sentence, details)


def _strength(epsilon: float, delta: float, units: int) -> str:
    if delta * units >= 1:
        return "void, since its δ lets it fail outright for one unit"
    if delta * units > LARGEST_DELTA:
        return "doubtful, since its δ is large for so many units"
    if epsilon <= STRONG_EPSILON:
        return "strong"
    return "moderate" if epsilon <= REASONABLE_EPSILON else "too weak to rely on"


def leaks(attack: AttackRecord) -> bool:
    """Whether the interval of the AUC, where there is one, lies above guessing."""
    return bool(attack["ci95_auc"]) and attack["ci95_auc"][0] > figures.CHANCE_AUC


def attack_remark(attack: AttackRecord) -> str:
    """What a reader of one row of the attack table could get wrong."""
    auc, fixed, bounds = attack["auc"], attack["uar_fixed"], attack["ci95_auc"]
    across = attack["across"]
    if auc is None:
        lacking = (
            f"no two {TWO_ARE[across]}" if across else "in no fold are the victims of both classes"
        )
        return f"no AUC: {lacking}"
    if bounds and bounds[1] < figures.CHANCE_AUC:
        ranked, leaked = ("pairs", "speaker") if across else ("victims", "attribute")
        return f"ranks {ranked} the wrong way round, so the {leaked} is still in the update"
    clear = leaks(attack) if bounds else auc >= CLEAR_AUC
    if clear and fixed is not None and abs(fixed - figures.CHANCE_AUC) <= NEAR_CHANCE:
        return "a fixed threshold overlooks this leak"
    return ""


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "–" if share is None else f"{100 * share:.1f}{NBSP}%"


def decimal(number: float | None, digits: int = 2) -> str:
    """A number with fixed decimals, or a dash."""
    return "–" if number is None else f"{number:,.{digits}f}"


def p_text(p_value: float | None) -> str:
    """A p-value with three decimals, or that it is below them."""
    return "<0.001" if p_value is not None and p_value < 0.001 else decimal(p_value, 3)


def nominal_text(epsilon: float | None) -> str:
    """An epsilon that was asked for, as it was given."""
    return "–" if epsilon is None else f"{epsilon:,g}"


def delta_text(delta: float | None) -> str:
    """Delta as 0.5 or 1e-5."""
    return "–" if delta is None else f"{delta:g}".replace("e-0", "e-")


def interval(attack: AttackRecord) -> str:
    """The interval of an AUC in words."""
    bounds = attack["ci95_auc"]
    return f"95{NBSP}% interval {bounds[0]:.2f}–{bounds[1]:.2f}" if bounds else "no interval"
