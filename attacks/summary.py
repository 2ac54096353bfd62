"""What a run prints when it is done."""

from typing import Any

from rich.table import Table


def summary_table(results: dict[str, Any]) -> Table:
    """Show utility, leakage and privacy side by side."""
    privacy, utility = results["privacy"], results["utility"]
    shown = Table(title=f"corpus {results['corpus']['name']}, privacy {privacy['mechanism']}")
    for column in ("attack", "updates", "AUC", "95 % interval", "calibrated UAR"):
        shown.add_column(column, justify="left" if column == "attack" else "right")
    for entry in results["attacks"]:
        interval = entry["ci95_auc"]
        shown.add_row(
            entry["name"],
            str(entry["leaked_updates"]),
            _rounded(entry["auc"]),
            "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
            _rounded(entry["uar_calibrated"]),
        )
    guarantee = (
        "no guarantee"
        if privacy["epsilon"] is None
        else f"epsilon {privacy['epsilon']:.3g} at delta {privacy['delta']:.0e} a {privacy['unit']}"
    )
    shown.caption = (
        f"test UAR {utility['uar']:.3f} over {len(utility['per_fold'])} fold(s); {guarantee}"
    )
    return shown


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
