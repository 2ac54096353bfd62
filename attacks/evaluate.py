"""How well an attack does: the only module that reads the victims' true attributes.

Figures are computed within each test fold and averaged over folds, because every fold is
another federation with another model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit
from sklearn.metrics import roc_curve

from attacks.significance import FoldSamples, count_pairs, in_folds, interval, mean_auc, p_value
from client.errors import UserError
from client.seeds import numpy_stream
from client.speakers import CorpusData
from conf.schema import AdversaryConfig

Floats64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FPR_GRID = np.linspace(0, 1, 101)
BINS = 10
FIGURES = (
    *("auc", "ci95_auc", "p_value", "uar_calibrated", "uar_fixed"),
    *("advantage", "tpr_at_fpr_01", "tpr_at_fpr_10", "ece", "roc"),
)


def evaluate_attack(
    scores: pd.DataFrame,
    truth_path: Path,
    classes: Sequence[str],
    config: AdversaryConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """Evaluate one attack for every number of leaked updates.

    Parameters
    ----------
    scores : DataFrame
        A row an update: ``federation``, ``client``, ``score`` and, unless updates leak at
        random, ``round``.
    truth_path : Path
        ``truth.parquet`` of the run.
    classes : sequence of str
        The attribute's two values.

    Returns
    -------
    list of dict
        For each number of leaked updates the figures of ``results.json``. Where the victims
        of no fold show both values, figures are None.
    """
    truth = _read_truth(truth_path, config.attribute, classes)
    attacked = truth.merge(scores[["federation", "client"]].drop_duplicates())
    clients = attacked.groupby(["fold", "speaker"]).size().groupby("speaker").max()
    entries = []
    for leaked in config.leaked_updates:
        rng = numpy_stream(seed, "leaked", str(leaked))
        folds = [_draw(scores, part, leaked, config, rng) for _, part in attacked.groupby("fold")]
        entries.append(
            {
                "leaked_updates": leaked,
                "victims": int(clients.sum()),
                "speakers": len(clients),
                **_figures(folds, config.bootstraps, seed),
            }
        )
    return entries


def check_victims(private: CorpusData, attribute: str, classes: Sequence[str]) -> None:
    """Refuse, before anything is trained, a corpus whose outcome could not be evaluated.

    Raises
    ------
    UserError
        If a private speaker lacks the attribute or has a value that no shadow speaker has.
    """
    _check_values(pd.DataFrame(map(private.attributes, private.speakers)), attribute, classes)


def _check_values(speakers: pd.DataFrame, attribute: str, classes: Sequence[str]) -> None:
    if attribute not in speakers:
        raise UserError(
            f"adversary.attribute={attribute}: the private corpus does not say it; "
            f"its columns are {', '.join(speakers.columns)}"
        )
    unknown = sorted(set(speakers[attribute].dropna()) - set(classes))
    if unknown or speakers[attribute].isna().any():
        raise UserError(
            f"adversary.attribute={attribute}: private speakers have the value(s) "
            f"{', '.join(unknown) or 'missing'}, shadow speakers {' and '.join(classes)}"
        )


def _read_truth(path: Path, attribute: str, classes: Sequence[str]) -> pd.DataFrame:
    try:
        truth = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable; run fedser stage=train") from error
    _check_values(truth, attribute, classes)
    return truth.assign(
        label=truth[attribute].map(list(classes).index),
        speaker=pd.factorize(truth["speaker"])[0],
    )


def _draw(
    scores: pd.DataFrame,
    clients: pd.DataFrame,
    leaked: int | str,
    config: AdversaryConfig,
    rng: np.random.Generator,
) -> FoldSamples:
    """Combine the scores of the leaked updates of each client, once a draw.

    A client that sent fewer than `leaked` updates gives all it sent.
    """
    joined = scores.merge(clients[["federation", "client", "speaker", "label"]])
    combine = np.sum if config.combination == "sum" else np.mean
    sampled, speaker, label = [], [], []
    for (who, truth, _), group in joined.groupby(["speaker", "label", "client"]):
        many = len(group) if leaked == "all" else min(int(leaked), len(group))
        order = _choose(group, many, config, rng)
        sampled.append(combine(group["score"].to_numpy()[order], axis=1))
        speaker += [who] * len(order)
        label += [truth] * len(order)
    return FoldSamples(np.concatenate(sampled), np.array(speaker), np.array(label))


def _choose(
    updates: pd.DataFrame, many: int, config: AdversaryConfig, rng: np.random.Generator
) -> Ints:
    """Return which of one client's updates leak: positions, shape (draws, many)."""
    if config.selection == "random":
        return rng.random((config.draws, len(updates))).argsort(axis=1)[:, :many]
    by_round = updates["round"].to_numpy().argsort(kind="stable")
    return by_round[None, :many] if config.selection == "earliest" else by_round[None, -many:]


def _figures(drawn: list[FoldSamples], bootstraps: int, seed: int) -> dict[str, Any]:
    mixed = np.array([len(np.unique(fold.label)) == 2 for fold in drawn])
    if not mixed.any():
        return dict.fromkeys(FIGURES)
    folds = [drawn[k] for k in np.flatnonzero(mixed)]
    curves = [roc_curve(f.label, f.score, drop_intermediate=False) for f in folds]
    tpr = np.mean([_tpr_at(FPR_GRID, fpr, tpr) for fpr, tpr, _ in curves], axis=0)
    counts = count_pairs(drawn)
    shown = in_folds(counts, mixed)
    low, high = interval(shown, bootstraps, numpy_stream(seed, "bootstrap"))
    return {
        "auc": float(mean_auc(shown, shown.label[None] == 1)[0]),
        "ci95_auc": None if np.isnan(low) else [low, high],
        # Other labels may mix the classes in other folds: the test is exact over all of them.
        "p_value": p_value(counts, numpy_stream(seed, "permutation")),
        # The adversary cannot see the victims' labels but can see their scores: the median
        # splits them as well as an unknown shift of all scores allows.
        "uar_calibrated": float(np.mean([_uar(f, np.median(f.score)) for f in folds])),
        "uar_fixed": float(np.mean([_uar(f, 0.0) for f in folds])),
        # Yeom et al., Privacy Risk in Machine Learning (2018), at the best threshold.
        "advantage": float(np.mean([(tpr - fpr).max() for fpr, tpr, _ in curves])),
        "tpr_at_fpr_01": float(tpr[1]),
        "tpr_at_fpr_10": float(tpr[10]),
        "ece": float(np.mean([_calibration_error(f) for f in folds])),
        "roc": {"fpr": FPR_GRID.round(2).tolist(), "tpr": tpr.round(4).tolist()},
    }


def _uar(fold: FoldSamples, threshold: float) -> float:
    predicted = fold.score > threshold
    return float(np.mean([(predicted[fold.label == c] == c).mean() for c in (0, 1)]))


def _tpr_at(grid: Floats64, fpr: Floats64, tpr: Floats64) -> Floats64:
    """Return the highest true-positive rate at no more than each false-positive rate."""
    # Rates are ratios of counts: a hair of tolerance keeps 1/100 at or below 0.01.
    return np.asarray(tpr[np.searchsorted(fpr, grid + 1e-9, side="right") - 1])


def _calibration_error(fold: FoldSamples) -> float:
    """Return the expected calibration error of the scores as log-odds, over equal-width bins.

    Each bin weighs its share of the draws, so |sum of excess| / n needs no mean of a bin.
    """
    probability = expit(fold.score.astype(np.float64))
    bins = np.minimum((BINS * probability).astype(int), BINS - 1)
    excess = np.bincount(bins, weights=probability - fold.label, minlength=BINS)
    return float(np.abs(excess).sum() / len(bins))
