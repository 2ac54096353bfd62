"""How well an attack does: the only module that reads the victims' true attributes.

Figures are computed within each test fold and averaged over folds, because every fold is
another federation with another model. With more than two classes each is first held against
the rest, and a fold's figure is the mean over those of its classes that its victims show.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logsumexp
from sklearn.metrics import roc_curve

from fedser.attacks.evaluation.significance import (
    FoldSamples,
    contrasts,
    count_pairs,
    in_folds,
    interval,
    mean_auc,
    p_value,
)
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.errors import UserError
from fedser.common.seeds import numpy_stream
from fedser.common.tables import read_table
from fedser.conf.schema import AdversaryConfig
from fedser.server.federation.remote_clients import Roster

Floats64 = npt.NDArray[np.float64]

AGAIN = "run fedser stage=train"
FPR_GRID = np.linspace(0, 1, 101)
BINS = 10
FIGURES = (
    *("auc", "ci95_auc", "p_value", "uar_calibrated", "uar_fixed"),
    *("advantage", "tpr_at_fpr_01", "tpr_at_fpr_10", "ece", "roc", "eer", "ci95_eer"),
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
        A row a draw of a client's leaked updates: ``federation``, ``client``, ``leaked`` (how
        many, as text: ``"1"``, ``"all"``), ``draw`` and ``score_0`` to ``score_{C-1}``, the
        log-probabilities of the C classes up to a constant.
    truth_path : Path
        ``truth.parquet`` of the run.
    classes : sequence of str
        The attribute's C values, two or more.

    Returns
    -------
    list of dict
        For each number of leaked updates, in order of appearance, the figures of
        ``results.json``; ``eer`` and ``ci95_eer``, which are those of verification, are None.
        Where the victims of no fold show two values, all figures are None.

    Raises
    ------
    UserError
        If the truth is not there, or no run's own: it lacks a client, or a speaker has two values;
        if a victim lacks the attribute or has an unknown value.
    ValueError
        If a score is NaN or infinite.
    """
    columns = [f"score_{c}" for c in range(len(classes))]
    refuse_not_finite(scores, columns)
    truth = _read_truth(truth_path)
    _check_values(truth, config.attribute, classes)
    if (truth.groupby(["fold", "speaker"])[config.attribute].nunique() > 1).any():
        raise UserError(f"{truth_path}: a speaker has two values of {config.attribute}; {AGAIN}")
    truth["label"] = truth[config.attribute].map(list(classes).index)
    known = truth[["federation", "client", "fold", "speaker", "label"]]
    joined = scores.merge(known, on=["federation", "client"], validate="many_to_one")
    refuse_unlisted(truth_path, scores, joined)
    entries = []
    for leaked, drawn in joined.groupby("leaked", sort=False):
        folds = [_samples(part, columns) for _, part in drawn.groupby("fold")]
        figures = _figures(folds, config.bootstraps, seed)
        entries.append({**who_leaked(str(leaked), drawn), **figures})
    return entries


def speakers_of(truth_path: Path) -> pd.DataFrame:
    """Return whose each client was: ``federation``, ``client``, ``fold`` and ``speaker``.

    Speakers are numbered from 0, over all folds.

    Raises
    ------
    UserError
        If the file is not readable.
    """
    return _read_truth(truth_path)[["federation", "client", "fold", "speaker"]]


def who_leaked(leaked: str, clients: pd.DataFrame) -> dict[str, Any]:
    """Return the part of an entry that says what leaked and of how many.

    Parameters
    ----------
    clients : DataFrame
        ``fold``, ``speaker`` and ``client``, a row or more a client. A speaker has the same
        clients in every fold.
    """
    distinct = clients[["fold", "speaker", "client"]].drop_duplicates()
    of_speaker = distinct.groupby(["fold", "speaker"]).size().groupby("speaker").max()
    return {
        "leaked_updates": leaked if leaked == "all" else int(leaked),
        "victims": int(of_speaker.sum()),
        "speakers": len(of_speaker),
    }


def refuse_not_finite(scores: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse scores that no figure can be computed of.

    Raises
    ------
    ValueError
        If a score is NaN or infinite, naming its column.
    """
    for column in columns:
        many = int((~np.isfinite(scores[column].to_numpy(np.float64))).sum())
        if many:
            raise ValueError(f"{many} value(s) of {column} are NaN or infinite")


def refuse_unlisted(truth_path: Path, scores: pd.DataFrame, joined: pd.DataFrame) -> None:
    """Refuse scores of clients that the truth does not list: it is of another run."""
    if len(joined) < len(scores):
        raise UserError(f"{truth_path}: clients of the transcript are missing; {AGAIN}")


def check_victims(private: CorpusData | Roster, attribute: str, classes: Sequence[str]) -> None:
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
            f"its columns are {', '.join(speakers.columns) or 'none (runtime.truth has them)'}"
        )
    unknown = sorted(set(speakers[attribute].dropna()) - set(classes))
    if unknown or speakers[attribute].isna().any():
        raise UserError(
            f"adversary.attribute={attribute}: private speakers have the value(s) "
            f"{', '.join(unknown) or 'missing'}, shadow speakers {' and '.join(classes)}"
        )


def _read_truth(path: Path) -> pd.DataFrame:
    try:
        truth = read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable; {AGAIN}") from error
    _check_truth(path, truth)
    return truth.assign(speaker=pd.factorize(truth["speaker"])[0])


def _check_truth(path: Path, truth: pd.DataFrame) -> None:
    """Refuse what no run leaves: somebody else may have written it."""
    missing = {"federation", "fold", "client", "speaker"} - set(truth.columns)
    numbers = [name for name in ("fold", "client") if name in truth]
    others = truth.drop(columns=numbers)
    if (
        missing
        or not all(pd.api.types.is_integer_dtype(truth[name]) for name in numbers)
        or not all(all(isinstance(cell, str) for cell in others[name].dropna()) for name in others)
        or truth.duplicated(["federation", "client"]).any()
    ):
        raise UserError(f"{path}: not written by a run; {AGAIN}")


def _samples(drawn: pd.DataFrame, columns: Sequence[str]) -> FoldSamples:
    """Return the draws of one fold, with log-odds: log p - log(1 - p), p over all classes."""
    scores = drawn[list(columns)].to_numpy(np.float64)
    others = [np.delete(scores, c, axis=1) for c in range(len(columns))]
    log_odds = scores - np.column_stack([logsumexp(rest, axis=1) for rest in others])
    return FoldSamples(log_odds, drawn["speaker"].to_numpy(), drawn["label"].to_numpy())


def _figures(drawn: list[FoldSamples], bootstraps: int, seed: int) -> dict[str, Any]:
    mixed = np.array([len(np.unique(fold.label)) > 1 for fold in drawn])
    if not mixed.any():
        return dict.fromkeys(FIGURES)
    folds = [drawn[k] for k in np.flatnonzero(mixed)]
    curves = [_curves(fold) for fold in folds]
    tpr = _macro(curves, lambda fpr, tpr: _tpr_at(FPR_GRID, fpr, tpr))
    counts = count_pairs(drawn)
    shown = in_folds(counts, mixed)
    return dict.fromkeys(FIGURES) | {
        "auc": float(mean_auc(shown, shown.label[None])[0]),
        "ci95_auc": interval(shown, bootstraps, numpy_stream(seed, "bootstrap")),
        # Other labels may mix the classes in other folds: the test is over all of them.
        "p_value": p_value(counts, numpy_stream(seed, "permutation")),
        # The adversary cannot see the victims' labels but can see their scores: medians
        # split them as well as an unknown shift of all scores allows.
        "uar_calibrated": float(np.mean([_uar(f, np.median(f.log_odds, axis=0)) for f in folds])),
        "uar_fixed": float(np.mean([_uar(f, 0.0) for f in folds])),
        # Yeom et al., Privacy Risk in Machine Learning (2018), at the best threshold.
        "advantage": float(_macro(curves, lambda fpr, tpr: np.max(tpr - fpr))),
        "tpr_at_fpr_01": float(tpr[1]),
        "tpr_at_fpr_10": float(tpr[10]),
        "ece": float(np.mean([_calibration_error(f) for f in folds])),
        "roc": {"fpr": FPR_GRID.round(2).tolist(), "tpr": tpr.round(4).tolist()},
    }


def _curves(fold: FoldSamples) -> list[tuple[Floats64, Floats64]]:
    """Return false- and true-positive rates of each class that the fold shows."""
    shown = [c for c in contrasts(fold.log_odds.shape[1]) if (fold.label == c).any()]
    curves = [
        roc_curve(fold.label == c, fold.log_odds[:, c], drop_intermediate=False) for c in shown
    ]
    return [(fpr, tpr) for fpr, tpr, _ in curves]


def _macro(
    curves: list[list[tuple[Floats64, Floats64]]], figure: Callable[[Floats64, Floats64], Any]
) -> Floats64:
    """Return the mean over folds of the mean over classes of a figure of a curve."""
    of_fold = [np.mean([figure(fpr, tpr) for fpr, tpr in fold], axis=0) for fold in curves]
    return np.asarray(np.mean(of_fold, axis=0))


def _uar(fold: FoldSamples, shift: Floats64 | float) -> float:
    """Return the unweighted average recall over the fold's classes, log-odds less a shift."""
    predicted = (fold.log_odds - shift).argmax(axis=1)
    return float(np.mean([(predicted[fold.label == c] == c).mean() for c in np.unique(fold.label)]))


def _tpr_at(grid: Floats64, fpr: Floats64, tpr: Floats64) -> Floats64:
    """Return the highest true-positive rate at no more than each false-positive rate."""
    # Rates are ratios of counts: a hair of tolerance keeps 1/100 at or below 0.01.
    return np.asarray(tpr[np.searchsorted(fpr, grid + 1e-9, side="right") - 1])


def _calibration_error(fold: FoldSamples) -> float:
    """Return the expected calibration error over equal-width bins.

    With more than two classes the mean over all of them, victims of the class or not (Kull et
    al., Beyond temperature scaling, 2019). Each bin weighs its share of the draws, so
    |sum of excess| / n needs no mean of a bin.
    """
    errors = []
    for c in contrasts(fold.log_odds.shape[1]):
        probability = expit(fold.log_odds[:, c])
        bins = np.minimum((BINS * probability).astype(int), BINS - 1)
        excess = np.bincount(bins, weights=probability - (fold.label == c), minlength=BINS)
        errors.append(np.abs(excess).sum() / len(bins))
    return float(np.mean(errors))
