"""Read and check ``rounds.parquet``."""

from pathlib import Path

import pandas as pd

from fedser.common.errors import UserError
from fedser.common.tables import read_table
from fedser.server.strategy.replies import REASONS

LARGEST = {
    **dict.fromkeys(("validation_uar", "test_uar"), 1.0),
    **dict.fromkeys(("fold", "round", "clients", "rejected"), 1e9),
    **{f"rejected_{reason}": 1e9 for reason in REASONS},
}
"""Largest number that each column of ``rounds.parquet`` may hold."""


def read_rounds(path: Path) -> pd.DataFrame:
    """Read the rounds of the private federations from ``rounds.parquet``.

    Raises
    ------
    UserError
        If the file is missing or damaged, or if a number is out of range.
    """
    remedy = "run fedser stage=train"
    try:
        rounds = read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: the rounds of training are missing; {remedy} first") from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a complete Parquet file ({reason}); {remedy} again") from None
    missing = {"role", "fold", "round"} - set(rounds.columns)
    if missing:
        raise UserError(f"{path}: columns {sorted(missing)} are missing; {remedy} again")
    rounds = rounds[rounds["role"] == "private"]
    numbers = {}
    for column in rounds.columns.intersection(list(LARGEST)):
        try:  # a column without any number comes back as objects
            numbers[column] = pd.to_numeric(rounds[column])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path}: {column} holds no numbers ({error}); {remedy} again"
            ) from None
        if not numbers[column].dropna().between(0, LARGEST[column]).all():
            raise UserError(f"{path}: {column} is out of range; {remedy} again")
    return rounds.assign(**numbers)
