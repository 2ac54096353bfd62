"""How the rows of `table.csv` become a table to read: one layout per value of the key `table`."""

from dataclasses import dataclass

METRICS = {
    "uar_fixed": "UAR fixed (%)",
    "uar_calibrated": "UAR calibrated (%)",
    "auc": "AUC",
    "uar": "UAR (%)",
    "accuracy": "accuracy (%)",
}
"""Columns of `table.csv` that a table can show, and their names in it."""
INFERENCE = ("uar_fixed", "uar_calibrated", "auc")


@dataclass(frozen=True)
class Layout:
    """How rows become a table.

    Attributes
    ----------
    title : str
        Title of the table; ``{}`` stands for the attribute.
    across : str
        The values of this column become the columns of the table.
    facet : str
        The values of this column separate the lines of the table and the panels of the figure.
    x : str
        Column along the x axis of the figure.
    beside : tuple of str
        Published rows are shown if ours have the same value in each of these columns.
    metrics : tuple of str
        Keys of METRICS, one line of the table per metric.
    """

    title: str
    across: str
    facet: str
    x: str
    beside: tuple[str, ...] = ("features", "algorithm")
    metrics: tuple[str, ...] = INFERENCE


LAYOUTS = {
    "utility": Layout(
        *("emotion recognition by nominal epsilon", "privacy", "features", "privacy"),
        beside=("features", "algorithm", "privacy"),
        metrics=("uar", "accuracy"),
    ),
    "layers": Layout("{} inference by layer of the update", "layer", "algorithm", "layer"),
    "updates": Layout(
        *("{} inference by leaked updates", "leaked_updates", "privacy", "leaked_updates"),
        beside=("features", "privacy"),
    ),
    "dropout": Layout("{} inference by dropout of the model", "dropout", "algorithm", "dropout"),
    "comparison": Layout(
        *("{} inference, attacks side by side", "attack", "privacy", "leaked_updates"),
        metrics=("auc", "uar_calibrated"),
    ),
}
"""The values of the key `table`."""
