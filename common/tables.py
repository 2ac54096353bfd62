"""Tables in Parquet files."""

import errno
import os
from pathlib import Path

import pandas as pd
from pyarrow import parquet

from fedser.common.files import check_regular

MOST_ROWS, MOST_COLUMNS, MOST_TABLE_BYTES = 10**7, 1000, 2**30
"""Of a Parquet file that is read."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file that somebody else may have made.

    Raises
    ------
    OSError
        If it is not there, not a regular file, or would fill the memory.
    ValueError
        If it is no Parquet file.
    """
    check_regular(path)
    about = parquet.read_metadata(path)
    size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if about.num_rows > MOST_ROWS or about.num_columns > MOST_COLUMNS or size > MOST_TABLE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return pd.read_parquet(path)
