"""The privacy statement of a run as table rows, for the run page."""

from fedser.reports.numbers import decimal, sample_text, significant
from fedser.results.files import Results
from fedser.server.privacy.statement import epsilon_text

UNITS = {
    "utterance": "one utterance of a client, not its speaker",
    "client": "all data of one client",
    "speaker": "all utterances of one speaker, on all clients of the speaker",
}
RELATIONS = {
    "add_remove": "two data sets differ in one {unit} that is added or removed",
    "zero_out": "zeros replace the updates of one {unit}; the observer knows who takes part",
    "replace_one": "two data sets differ in one {unit} that is replaced by another",
}
SAMPLING = {
    "poisson": "Poisson: each client joins a round independently of the others",
    "turns": "clients take turns in {bands} groups, which everybody may know",
    "fixed": "fixed size: every round has the same number of clients",
}
LEAVES = {
    "update": "the update",
    "num_examples": "the number of training utterances, in the clear",
    "loss": "the training loss, in the clear",
}
RELEASED = {
    "released": "the models of all folds",
    "evaluation": "the model of one fold; the other folds only estimate utility and are not shown",
}
NOISE = {
    "seeded": "the seed: reproducible, but no protection against anybody who knows the seed",
    "system": "entropy of the operating system",
    None: "none",
}


def privacy_rows(results: Results) -> list[tuple[str, str]]:
    """Return the conditions of an epsilon, as pairs of label and text."""
    privacy = results["privacy"]
    unit, relation = privacy["unit"], privacy["relation"]
    neighbours = RELATIONS[relation].format(unit=unit or "record") if relation else "none"
    sent = [LEAVES.get(name, name) for name in privacy["leaves_device"]]
    return [
        ("Mechanism", privacy["mechanism"]),
        ("Unit", _unit(results)),
        ("Neighbouring relation", neighbours),
        ("Vantage (against whom)" if unit else "Vantage", privacy["vantage"] or "not stated"),
        ("Accountant", privacy["accountant"] or "none"),
        (
            f"Maximum releases of one {unit or 'client'}, all folds",
            decimal(privacy["releases_max"], 0),
        ),
        ("Models that count as released", RELEASED[privacy["cross_validation"]]),
        ("Cohorts", SAMPLING[privacy["sampling"]].format(bands=privacy.get("bands"))),
        (
            "Noise multiplier (standard deviation / sensitivity)",
            significant(privacy["noise_multiplier"]),
        ),
        (
            "Noise to signal (above 1 nothing is learned)",
            significant(privacy.get("noise_to_signal")),
        ),
        ("Clipping norm", significant(privacy["clipping_norm"])),
        ("Noise source", NOISE[privacy["noise"]]),
        ("Leaves the device", ", ".join(sent)),
    ]


def _unit(results: Results) -> str:
    unit = results["privacy"]["unit"]
    if not unit:
        return "none"
    text = f"{unit}: {UNITS[unit]}"
    if unit == "client" and results["clients"] > results["speakers"]:
        sample = sample_text([results["speakers"]], [results["clients"]])
        text += f". There are {sample}, so a speaker is protected less than a client"
    return text


def real_epsilons(results: Results) -> list[tuple[str, str]]:
    """Return each real epsilon as label and text: the run, other observers, and one fold."""
    privacy = results["privacy"]
    if privacy["epsilon"] is None:
        return [("Real", "no guarantee")]
    shown = [(f"participation {privacy['participation']}", privacy["epsilon"])]
    known = privacy["epsilon_known_participation"], privacy["epsilon_known_replace_one"]
    for relation, epsilon in zip(("zero-out", "replace-one"), known, strict=True):
        if epsilon is not None:
            shown.append((f"participation known, {relation}", epsilon))
    one = privacy["epsilon_one_federation"]
    if one is not None and len(results["utility"]["per_fold"]) > 1:
        shown.append(("one fold alone", one))
    return [(f"Real, {condition}", epsilon_text(epsilon)) for condition, epsilon in shown]
