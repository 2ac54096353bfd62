"""What two studies published of their gender attack, and how they went about it.

README.md beside this file says where each figure is from.
"""

from importlib import resources

import pandas as pd

CORPORA = ("iemocap", "msp-improv", "crema-d")
"""Each in English, and attacked from the other two."""
FEATURES = "emobase"
ROUNDS = 200
DROPOUT = 0.2
ATTACK = "cnn"
SOURCES = {
    "layers": "Feng et al. (2021, arXiv 2112.13416)",
    "updates": "Feng, Peri and Narayanan (Interspeech 2022, arXiv 2204.02500)",
    "dropout": (
        "two versions, named by commit, of the result files that Feng et al. (2021, arXiv "
        "2112.13416) keep at https://github.com/usc-sail/fed-ser-leakage, FedAvg only"
    ),
}
FILES = {
    "layers": "gender_attack_by_layer.csv",
    "updates": "gender_attack_by_leaked_updates.csv",
    "dropout": "gender_attack_by_dropout.csv",
}


def read_published(table: str) -> pd.DataFrame:
    """Read the published figures of a table: the attack on models of emobase features.

    Parameters
    ----------
    table : str
        ``layers``, ``updates`` or ``dropout``.

    Returns
    -------
    DataFrame
        A row a figure: ``private_corpus``, ``algorithm``, ``privacy``, ``nominal_epsilon``,
        ``layer``, ``leaked_updates``, ``dropout``, ``run`` and ``uar_fixed`` (0 to 1).
    """
    path = resources.files("attacks.published").joinpath(FILES[table])
    with path.open(encoding="utf-8") as lines:
        read = pd.read_csv(lines, dtype={"snapshot": str})
    read = read[read["features"] == FEATURES].reset_index(drop=True)
    epsilon = read.get("nominal_epsilon", pd.Series(float("inf"), read.index))
    leaked = read.get("leaked_updates", pd.Series(1, read.index))
    return pd.DataFrame(
        {
            "private_corpus": read["private_corpus"],
            "algorithm": read["algorithm"].str.replace("_", ""),
            "privacy": epsilon.map(lambda e: "none" if e == float("inf") else f"udp {e:g}"),
            "nominal_epsilon": epsilon.where(epsilon < float("inf")),
            "layer": read.get("layer", "first"),
            # A client takes part in some 20 of 200 rounds: a hundred updates are all it sent.
            "leaked_updates": leaked.astype(object).where(leaked < 100, "all"),
            "dropout": read.get("dropout", DROPOUT),
            "run": read.get("snapshot", ""),
            "uar_fixed": (read["attack_uar"] / 100).round(6),
        }
    )
