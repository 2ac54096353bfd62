"""Draw ``leakage.png`` from the table in ``docs/results/attack_comparison.md``.

Run with ``python docs/figures/leakage.py`` in the root of the repository.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1]
TABLE = DOCS / "results" / "attack_comparison.md"
SHOWN = {
    "correlation": "correlation (second-order statistics)",
    "snapshot": "snapshot (at the victims' models)",
    "centroid": "centroid (Al-Ali et al., 2025)",
    "cnn": "CNN of the 2022 study",
    "statistics": "first-order statistics",
}
"""Attacks of the figure, and their names in the legend."""


def read_auc() -> dict[tuple[str, str], dict[str, tuple[float, float, float]]]:
    """Return AUC and the bounds of its interval, by (privacy, leaked updates) and attack."""
    rows = [line.strip("| \n").split(" | ") for line in TABLE.open() if line.startswith("| ")]
    header, found = rows[0], {}
    for row in rows[2:]:
        cells = dict(zip(header, row, strict=True))
        if cells["metric"] == "AUC":
            numbers = {name: re.findall(r"[\d.]+", cells[name]) for name in SHOWN}
            found[cells["privacy"], cells["leaked updates"]] = {
                name: (float(auc), float(low), float(high))
                for name, (auc, low, high) in numbers.items()
            }
    return found


def main() -> None:
    """Write the figure beside this file."""
    found = read_auc()
    points = list(dict.fromkeys(privacy for privacy, _ in found))
    labels = ["none", *(f"ε = {point.removeprefix('udp ')}" for point in points[1:])]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axes, leaked in zip(panels, ("1", "20"), strict=True):
        for shift, (name, label) in enumerate(SHOWN.items()):
            auc, low, high = zip(*(found[point, leaked][name] for point in points), strict=True)
            places = [place + 0.06 * (shift - 2) for place in range(len(points))]
            bars = [
                [value - bound for value, bound in zip(auc, low, strict=True)],
                [bound - value for value, bound in zip(auc, high, strict=True)],
            ]
            axes.errorbar(places, auc, bars, fmt="o-", capsize=2, linewidth=1.5, label=label)
        axes.axhline(0.5, color="grey", linestyle=":")
        axes.set_xticks(range(len(points)), labels)
        axes.set_title("one leaked update" if leaked == "1" else "twenty leaked updates")
        axes.set(xlabel="noise of the 2022 study (UDP), by its nominal ε", ylim=(0.15, 1.05))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AUC of gender inference")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
