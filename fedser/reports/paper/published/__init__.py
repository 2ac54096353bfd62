"""The published figures of two studies, for the recogniser and the gender attack.

README.md beside this file names the source of each figure.
"""

from importlib import resources

import pandas as pd

CORPORA = ("iemocap", "msp_improv", "crema_d")
"""Our names of the corpora. All are English; each is attacked from the other two."""
EMOBASE = "emobase"
FEATURES = (EMOBASE, "apc", "vq_apc", "npc", "tera", "decoar2")
ROUNDS = 200
FOLDS = 5
DROPOUT = 0.2
ATTACK = "cnn"
SOURCES = {
    "utility": (
        "two versions, by month, of the results of Feng, Peri and Narayanan (Interspeech 2022, "
        "arXiv 2204.02500)"
    ),
    "layers": "Feng et al. (2021, arXiv 2112.13416)",
    "updates": "Feng, Peri and Narayanan (Interspeech 2022, arXiv 2204.02500)",
    "dropout": (
        "two versions, named by commit, of the result files that Feng et al. (2021, arXiv "
        "2112.13416) keep at https://github.com/usc-sail/fed-ser-leakage, FedAvg only"
    ),
}
FILES = {
    "utility": "ser_utility.csv",
    "layers": "gender_attack_by_layer.csv",
    "updates": "gender_attack_by_leaked_updates.csv",
    "dropout": "gender_attack_by_dropout.csv",
}
PERCENT = {"attack_uar": "uar_fixed", "uar": "uar", "accuracy": "accuracy"}
"""Columns of the files in per cent, and their names in the result."""


def read_published(table: str) -> pd.DataFrame:
    """Read the published figures of a table.

    Parameters
    ----------
    table : str
        ``utility``, ``layers``, ``updates`` or ``dropout``.

    Returns
    -------
    DataFrame
        One row per published figure: ``private_corpus``, ``features``, ``algorithm``,
        ``privacy``, ``nominal_epsilon``, ``layer``, ``leaked_updates``, ``dropout``, ``run``, and
        ``uar_fixed`` of the attack, or ``uar`` and ``accuracy`` of emotion recognition, from 0 to
        1. Figures of mixed corpora are left out.
    """
    path = resources.files("fedser.reports.paper.published").joinpath(FILES[table])
    with path.open(encoding="utf-8") as lines:
        read = pd.read_csv(lines, dtype={"snapshot": str})
    read = read.rename(columns={"corpora": "private_corpus"})
    read = read[~read["private_corpus"].str.contains("+", regex=False)].reset_index(drop=True)
    epsilon = read.get("nominal_epsilon", pd.Series(float("inf"), read.index))
    attacked = table != "utility"
    leaked = read.get("leaked_updates", pd.Series(1 if attacked else None, read.index))
    return pd.DataFrame(
        {
            "private_corpus": read["private_corpus"].str.replace("-", "_"),
            "features": read["features"],
            "algorithm": read["algorithm"].str.replace("_", ""),
            "privacy": epsilon.map(lambda e: "none" if e == float("inf") else f"udp {e:g}"),
            "nominal_epsilon": epsilon.where(epsilon < float("inf")),
            "layer": read.get("layer", "first" if attacked else None),
            # A client takes part in about 20 of 200 rounds, so 100 updates are all its updates.
            "leaked_updates": leaked.astype(object).mask(leaked >= 100, "all"),
            "dropout": read.get("dropout", DROPOUT),
            "run": read.get("snapshot", ""),
            **{
                ours: (read[theirs] / 100).round(6)
                for theirs, ours in PERCENT.items()
                if theirs in read
            },
        }
    )
