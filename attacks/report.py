"""The report of a run: `figures/*.png` and one page, `report.html`, that needs nothing else."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined, Template

from attacks import figures
from attacks.results import (
    Attack,
    Results,
    at_one,
    attack_series,
    read_results,
    write_atomically,
)
from client.errors import UserError

UNITS = {
    "utterance": "one utterance of a client, not the speaker behind it",
    "client": "everything one client holds",
    "speaker": "everything one speaker said, over all of the speaker's clients",
}
RELATIONS = {
    "add_remove": "data sets differ by one {unit} added or removed",
    "replace_one": "data sets differ by one {unit} replaced by another",
}
# Tiers of "How to DP-fy ML" (Ponomareva et al., 2023, arXiv:2303.00654, section 5.2).
STRONG_EPSILON, REASONABLE_EPSILON = 1.0, 10.0
NEAR_CHANCE = 0.05
CLEAR_AUC = 0.6


class Finding(NamedTuple):
    """One of the three figures of the verdict."""

    title: str
    figure: str
    sentence: str
    details: list[str]


def write_report(run_dir: Path) -> Path:
    """Write the figures and the page of one run.

    Parameters
    ----------
    run_dir : Path
        Folder with `results.json` and `rounds.parquet`.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        If one of these files is missing or damaged.
    """
    results = read_results(run_dir / "results.json")
    rounds = read_rounds(run_dir / "rounds.parquet")
    series = attack_series(results["attacks"])
    page = run_dir / "report.html"
    write_atomically(
        page,
        _template().render(
            results=results,
            findings=[utility_finding(results), leakage_finding(series), privacy_finding(results)],
            figures=_draw(run_dir / "figures", rounds, results, series),
            remarks=[attack_remark(attack) for attack in results["attacks"]],
            privacy_rows=privacy_rows(results),
            rounds_run=len(rounds),
            empty_rounds=_total(rounds.get("clients", pd.Series(dtype=float)) == 0),
            rejected=_total(rounds.get("rejected", pd.Series(dtype=float))),
            config=yaml.safe_dump(results["config"], allow_unicode=True),
        ),
    )
    return page


def read_rounds(path: Path) -> pd.DataFrame:
    """Rows of the private federations in `rounds.parquet`; a UserError when it is damaged."""
    mend = "run `fedser stage=train` first"
    try:
        rounds = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: the rounds of training are missing; {mend}") from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a complete Parquet file ({reason}); {mend} again") from None
    missing = {"role", "fold", "round"} - set(rounds.columns)
    if missing:
        raise UserError(f"{path}: columns {sorted(missing)} are missing; {mend} again")
    rounds = rounds[rounds["role"] == "private"]
    # A column without any number comes back as objects.
    numeric = rounds.columns.intersection(["validation_uar", "test_uar", "clients", "rejected"])
    return rounds.assign(**{column: pd.to_numeric(rounds[column]) for column in numeric})


def utility_finding(results: Results) -> Finding:
    """How well emotions are recognised on speakers the model never heard."""
    utility, chance = results["utility"], percent(figures.CHANCE_UAR)
    uar, title = utility["uar"], "Utility"
    if uar is None:
        return Finding(title, "not measured", "Emotion recognition was not measured.", [])
    folds = [fold["uar"] for fold in utility["per_fold"] if fold["uar"] is not None]
    details = [
        "test UAR on unseen speakers",
        f"chance {chance}, accuracy {percent(utility['accuracy'])}",
    ]
    if len(folds) > 1:
        details.insert(1, f"{len(folds)} folds, {percent(min(folds))} to {percent(max(folds))}")
    if uar <= figures.CHANCE_UAR + NEAR_CHANCE:
        sentence = f"Emotion recognition is near guessing: {percent(uar)} UAR against {chance}."
    else:
        sentence = (
            f"On speakers it never heard, the model recognises {percent(uar)} of an emotion's "
            f"utterances, averaged over emotions; guessing gives {chance}."
        )
    return Finding(title, percent(uar), sentence, details)


def leakage_finding(series: dict[str, list[Attack]]) -> Finding:
    """What the strongest attack reads from one and from the most leaked updates."""
    title = "Leakage"
    if not series:
        sentence = "No attack was run, so nothing is known about what the updates give away."
        return Finding(title, "not attacked", sentence, [])
    one = _strongest(at_one(records) for records in series.values())
    most = _strongest(records[-1] for records in series.values())
    shown = [attack for attack in (one, most) if attack]
    if not shown:
        sentence = "The attacks have no AUC: their victims are all of one class."
        return Finding(title, "undefined", sentence, [])
    shown = shown[:1] if one is most else shown
    details = [
        f"{attack['attribute']} from {figures.updates(attack)}: AUC {decimal(attack['auc'])} "
        f"({interval(attack)}; {attack['name']})"
        for attack in shown
    ]
    details.append(f"strongest of {len(series)} attack{'s' * (len(series) > 1)}; 0.5 is guessing")
    figure = "AUC " + " → ".join(decimal(attack["auc"]) for attack in shown)
    return Finding(title, figure, _leakage_sentence(max(shown, key=_auc)), details)


def _leakage_sentence(attack: Attack) -> str:
    auc, attribute = decimal(attack["auc"]), attack["attribute"]
    held = figures.updates(attack)
    if leaks(attack):
        return (
            f"The updates give the speaker's {attribute} away: from {held} of a client, the "
            f"adversary ranks {percent(attack['auc'])} of victim pairs correctly "
            f"(AUC {auc}); guessing gives 50 %."
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
    claim = f"nominal ε = {epsilon_text(privacy['nominal_epsilon'])}"
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
    strength = _strength(epsilon, delta, results["speakers"])
    sentence = f"The formal guarantee is {strength}: {guarantee}."
    return Finding(title, f"ε = {epsilon_text(epsilon)}", sentence, details)


def _strength(epsilon: float, delta: float, speakers: int) -> str:
    if delta * speakers >= 1:
        return "vacuous, as it may fail for a whole speaker"
    if epsilon <= STRONG_EPSILON:
        return "strong"
    return "moderate" if epsilon <= REASONABLE_EPSILON else "too weak to rely on"


def leaks(attack: Attack) -> bool:
    """Whether the interval of the AUC, where there is one, lies above guessing."""
    return bool(attack["ci95_auc"]) and attack["ci95_auc"][0] > figures.CHANCE_AUC


def attack_remark(attack: Attack) -> str:
    """What a reader of one row of the attack table could get wrong."""
    auc, fixed, bounds = attack["auc"], attack["uar_fixed"], attack["ci95_auc"]
    if auc is None:
        return "no AUC: the victims are of one class"
    if bounds and bounds[1] < figures.CHANCE_AUC:
        return "ranks victims the wrong way round, so the attribute is still in the update"
    clear = leaks(attack) if bounds else auc >= CLEAR_AUC
    if clear and fixed is not None and abs(fixed - figures.CHANCE_AUC) <= NEAR_CHANCE:
        return "a fixed threshold overlooks this leak"
    return ""


def privacy_rows(results: Results) -> list[tuple[str, str]]:
    """The statement without which an epsilon means nothing, as label and text."""
    privacy = results["privacy"]
    unit, relation = privacy["unit"], privacy["relation"]
    covered = f"{unit}: {UNITS[unit]}" if unit else "none"
    if unit == "client" and results["clients"] > results["speakers"]:
        held = f"{results['speakers']} speakers hold {results['clients']} clients"
        covered += f"; {held}, so a speaker is protected less than a client"
    neighbours = RELATIONS[relation].format(unit=unit or "record") if relation else "none"
    return [
        ("Mechanism", privacy["mechanism"]),
        ("Unit", covered),
        ("Neighbouring relation", neighbours),
        ("Vantage (who sees what)", privacy["vantage"] or "not stated"),
        ("Accountant", privacy["accountant"] or "none"),
        ("Releases of one client, at most", decimal(privacy["releases_max"], 0)),
    ]


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "–" if share is None else f"{100 * share:.1f} %"


def decimal(number: float | None, digits: int = 2) -> str:
    """A number with fixed decimals, or a dash."""
    return "–" if number is None else f"{number:,.{digits}f}"


def epsilon_text(epsilon: float | None) -> str:
    """Epsilon with three digits: 0.531, 26.4, 1,082."""
    if epsilon is None:
        return "–"
    return f"{epsilon:,.0f}" if epsilon >= 100 else f"{epsilon:.3g}"


def delta_text(delta: float | None) -> str:
    """Delta as 0.5 or 1e-5."""
    return "–" if delta is None else f"{delta:g}".replace("e-0", "e-")


def interval(attack: Attack) -> str:
    """The interval of an AUC in words."""
    bounds = attack["ci95_auc"]
    return f"95 % interval {bounds[0]:.2f}–{bounds[1]:.2f}" if bounds else "no interval"


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        function.__name__: function for function in (percent, decimal, epsilon_text, delta_text)
    }
    source = resources.files("attacks").joinpath("report.html.jinja").read_text("utf-8")
    return environment.from_string(source)


def _draw(
    folder: Path, rounds: pd.DataFrame, results: Results, series: dict[str, list[Attack]]
) -> dict[str, str]:
    """Save each figure and return it for the page; a figure without numbers is left out."""
    folder.mkdir(exist_ok=True)
    drawn = {
        "utility": figures.utility_figure(rounds, results),
        "roc": figures.roc_figure(series),
        "leakage": figures.leakage_figure(series),
    }
    for name, figure in drawn.items():
        if figure is None:
            # An earlier report of this run may have left one.
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            figures.save_png(figure, folder / f"{name}.png")
    return {name: figures.inline_svg(figure) for name, figure in drawn.items() if figure}


def _strongest(attacks: Iterable[Attack | None]) -> Attack | None:
    scored = [attack for attack in attacks if attack and attack["auc"] is not None]
    return max(scored, key=_auc, default=None)


def _auc(attack: Attack) -> float:
    return float(attack["auc"])


def _total(counts: pd.Series) -> int:
    return int(counts.sum())
