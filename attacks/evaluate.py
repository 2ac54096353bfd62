"""How well an attack does: the only module that reads the victims' true attributes.

Figures are computed within each test fold and averaged over folds, because every fold is
another federation with another model. A speaker's clients are not independent, so intervals
come from a bootstrap over speakers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_curve

from client.errors import UserError
from client.seeds import numpy_stream
from client.speakers import CorpusData
from conf.schema import AdversaryConfig

Floats64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FPR_GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class FoldSamples:
    """Attack scores in one fold: n draws over its clients.

    Attributes
    ----------
    score : ndarray of float, shape (n,)
        Log-odds that the attribute is the second class.
    speaker : ndarray of int, shape (n,)
        Whose the draw is, numbered over all folds.
    label : ndarray of int, shape (n,)
        The truth.
    """

    score: Floats64
    speaker: Ints
    label: Ints


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
        A row an update: ``federation``, ``client`` and ``score``.
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
        folds = [
            fold
            for _, part in attacked.groupby("fold")
            if len(np.unique((fold := _draw(scores, part, leaked, config.draws, rng)).label)) == 2
        ]
        entries.append(
            {
                "leaked_updates": leaked,
                "victims": int(clients.sum()),
                "speakers": len(clients),
                **_figures(folds, config.bootstraps, numpy_stream(seed, "bootstrap")),
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
    draws: int,
    rng: np.random.Generator,
) -> FoldSamples:
    """Average the scores of random updates of each client, `draws` times.

    A client that sent fewer than `leaked` updates gives all it sent.
    """
    joined = scores.merge(clients[["federation", "client", "speaker", "label"]])
    sampled, speaker, label = [], [], []
    for (who, truth, _), group in joined.groupby(["speaker", "label", "client"]):
        values = group["score"].to_numpy()
        many = len(values) if leaked == "all" else min(int(leaked), len(values))
        order = rng.random((draws, len(values))).argsort(axis=1)[:, :many]
        sampled.append(values[order].mean(axis=1))
        speaker += [who] * draws
        label += [truth] * draws
    return FoldSamples(np.concatenate(sampled), np.array(speaker), np.array(label))


def _figures(folds: list[FoldSamples], bootstraps: int, rng: np.random.Generator) -> dict[str, Any]:
    if not folds:
        names = ("auc", "uar_calibrated", "uar_fixed", "tpr_at_fpr_01", "ci95_auc", "roc")
        return dict.fromkeys(names)
    curves = [roc_curve(f.label, f.score, drop_intermediate=False) for f in folds]
    tpr = np.mean([_tpr_at(FPR_GRID, fpr, tpr) for fpr, tpr, _ in curves], axis=0)
    wins, pairs = _pairwise(folds)
    every = np.ones((1, wins.shape[1]))
    low, high = _interval(wins, pairs, bootstraps, rng)
    return {
        "auc": float(_auc(wins, pairs, every)[0]),
        "ci95_auc": None if np.isnan(low) else [low, high],
        # The adversary cannot see the victims' labels but can see their scores: the median
        # splits them as well as an unknown shift of all scores allows.
        "uar_calibrated": float(np.mean([_uar(f, np.median(f.score)) for f in folds])),
        "uar_fixed": float(np.mean([_uar(f, 0.0) for f in folds])),
        "tpr_at_fpr_01": float(tpr[1]),
        "roc": {"fpr": FPR_GRID.round(2).tolist(), "tpr": tpr.round(4).tolist()},
    }


def _uar(fold: FoldSamples, threshold: float) -> float:
    predicted = fold.score > threshold
    return float(np.mean([(predicted[fold.label == c] == c).mean() for c in (0, 1)]))


def _tpr_at(grid: Floats64, fpr: Floats64, tpr: Floats64) -> Floats64:
    """Return the highest true-positive rate at no more than each false-positive rate."""
    # Rates are ratios of counts: a hair of tolerance keeps 1/100 at or below 0.01.
    return np.asarray(tpr[np.searchsorted(fpr, grid + 1e-9, side="right") - 1])


def _pairwise(folds: list[FoldSamples]) -> tuple[Floats64, Floats64]:
    """Count, for each pair of speakers, how often the positive one's draws score higher.

    Returns
    -------
    wins, pairs : ndarray of float, shape (folds, S, S)
        Ties count half. The AUC is the sum of wins over the sum of pairs.
    """
    size = 1 + max(int(f.speaker.max()) for f in folds)
    wins, pairs = np.zeros((2, len(folds), size, size))
    for k, fold in enumerate(folds):
        for p in np.unique(fold.speaker[fold.label == 1]):
            positive = np.sort(fold.score[(fold.speaker == p) & (fold.label == 1)])
            negative = fold.label == 0
            below = np.searchsorted(positive, fold.score[negative], side="left")
            upto = np.searchsorted(positive, fold.score[negative], side="right")
            won = len(positive) - (below + upto) / 2
            np.add.at(wins[k, p], fold.speaker[negative], won)
            np.add.at(pairs[k, p], fold.speaker[negative], len(positive))
    return wins, pairs


def _auc(wins: Floats64, pairs: Floats64, weights: Floats64) -> Floats64:
    """Return the AUC averaged over folds for each row of speaker weights (B, S).

    A fold in which no speaker of one class has weight is left out; NaN where none is left.
    """
    won = np.einsum("bs,kst,bt->bk", weights, wins, weights, optimize=True)
    met = np.einsum("bs,kst,bt->bk", weights, pairs, weights, optimize=True)
    defined = met > 0
    auc = np.where(defined, won / np.where(defined, met, 1), 0).sum(axis=1)
    count = defined.sum(axis=1)
    return np.where(count > 0, auc / np.maximum(count, 1), np.nan)


def _interval(
    wins: Floats64, pairs: Floats64, bootstraps: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the AUC over resampled speakers."""
    speakers = np.flatnonzero(pairs.sum(axis=(0, 1)) + pairs.sum(axis=(0, 2)))
    drawn = rng.multinomial(len(speakers), np.full(len(speakers), 1 / len(speakers)), bootstraps)
    weights = np.zeros((bootstraps, pairs.shape[1]))
    weights[:, speakers] = drawn
    resampled = _auc(wins, pairs, weights)
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
