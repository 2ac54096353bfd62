"""The victims' true speakers and attributes. No other module reads ``truth.parquet``."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.errors import UserError
from fedser.common.tables import read_table
from fedser.server.federation.remote_clients import Roster

REMEDY = "run fedser stage=train"


def add_speakers_and_labels(
    scores: pd.DataFrame, path: Path, attribute: str, classes: Sequence[str]
) -> pd.DataFrame:
    """Add the truth to scores of clients: ``fold``, ``speaker`` and ``label``.

    Parameters
    ----------
    scores : DataFrame
        ``federation`` and ``client``, among other columns.
    path : Path
        ``truth.parquet`` of the run.
    classes : sequence of str
        Values of the attribute. A label is an index into them.

    Raises
    ------
    UserError
        If the file is not readable or no run wrote it; if it lacks a client; if a speaker has two
        values of the attribute; if a victim has no value or an unknown one.
    """
    truth = _read_truth(path)
    _check_values(truth, attribute, classes)
    if (truth.groupby(["fold", "speaker"])[attribute].nunique() > 1).any():
        raise UserError(f"{path}: a speaker has two values of {attribute}; {REMEDY}")
    truth["label"] = truth[attribute].map(list(classes).index)
    known = truth[["federation", "client", "fold", "speaker", "label"]]
    joined = scores.merge(known, on=["federation", "client"], validate="many_to_one")
    reject_unlisted(path, scores, joined)
    return joined


def speakers_of(path: Path) -> pd.DataFrame:
    """Return the speaker of each client: ``federation``, ``client``, ``fold`` and ``speaker``.

    Speakers are numbered from 0, over all folds.

    Raises
    ------
    UserError
        If the file is not readable or no run wrote it.
    """
    return _read_truth(path)[["federation", "client", "fold", "speaker"]]


def reject_unlisted(path: Path, scores: pd.DataFrame, joined: pd.DataFrame) -> None:
    """Reject scores of clients that the truth does not list: it belongs to another run."""
    if len(joined) < len(scores):
        raise UserError(f"{path}: clients of the transcript are missing; {REMEDY}")


def check_victims(private: CorpusData | Roster, attribute: str, classes: Sequence[str]) -> None:
    """Reject a private corpus on which attacks could not be evaluated, before the training.

    Raises
    ------
    UserError
        If a private speaker lacks the attribute, or has a value that no shadow speaker has.
    """
    _check_values(pd.DataFrame(map(private.attributes, private.speakers)), attribute, classes)


def _check_values(speakers: pd.DataFrame, attribute: str, classes: Sequence[str]) -> None:
    if attribute not in speakers:
        raise UserError(
            f"adversary.attribute={attribute}: the private corpus lacks it; set one of its "
            f"columns: {', '.join(speakers.columns) or 'none (runtime.truth adds columns)'}"
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
        raise UserError(f"{path}: not readable; {REMEDY}") from error
    _check_truth(path, truth)
    return truth.assign(speaker=pd.factorize(truth["speaker"])[0])


def _check_truth(path: Path, truth: pd.DataFrame) -> None:
    """Reject a table that no run wrote: another program may have changed the file."""
    missing = {"federation", "fold", "client", "speaker"} - set(truth.columns)
    numbers = [name for name in ("fold", "client") if name in truth]
    others = truth.drop(columns=numbers)
    if (
        missing
        or not all(pd.api.types.is_integer_dtype(truth[name]) for name in numbers)
        or not all(all(isinstance(cell, str) for cell in others[name].dropna()) for name in others)
        or truth.duplicated(["federation", "client"]).any()
    ):
        raise UserError(f"{path}: not written by a run; {REMEDY}")
