"""Tables in Parquet files."""

import errno
import os
from pathlib import Path

import pandas as pd
from pyarrow import parquet

from fedser.common.files import check_regular

MOST_ROWS, MOST_COLUMNS, MOST_TABLE_BYTES = 10**7, 1000, 2**30
"""Limits of a Parquet file to read."""


def read_table(path: Path) -> pd.DataFrame:
    """Read an untrusted Parquet file.

    Raises
    ------
    OSError
        If it does not exist, is not a regular file, or would fill the memory.
    ValueError
        If it is not a Parquet file.
    """
    check_regular(path)
    about = parquet.read_metadata(path)
    size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if about.num_rows > MOST_ROWS or about.num_columns > MOST_COLUMNS or size > MOST_TABLE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return pd.read_parquet(path)
