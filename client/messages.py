"""Arrays and tables in Flower messages; arrays without copies between processes of one machine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any, cast

import flwr.app
import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord

from fedser.client.secure_aggregation.keys import KeyBundle
from fedser.client.secure_aggregation.session import Session
from fedser.common.arrays import Arrays

Columns = Mapping[str, type]

CLIENTS: Columns = {"client": int}
BUNDLES: Columns = {
    **{"client": int, "mask_key": bytes, "share_key": bytes},
    **{"signer": str, "signature": bytes},
}
SEALED: Columns = {"sender": int, "receiver": int, "content": bytes}
SIGNATURES: Columns = {"client": int, "signature": bytes}
SHARES: Columns = {"holder": int, "owner": int, "kind": str, "share": bytes}
"""Columns of the tables of secure aggregation."""

PUBLIC_KEY: Columns = {"content": bytes, "signer": str, "signature": bytes}
CIPHERTEXTS: Columns = {"client": int, "content": bytes}
PARTS: Columns = {"content": bytes}
"""Columns of the tables of encrypted sums."""


class Array(flwr.app.Array):
    """A Flower array that becomes bytes only when it leaves the machine.

    Within a process it is the NumPy array itself. Ray pickles it with protocol 5, so that it
    travels through shared memory: a receiver must not write to it. The class has the name of
    Flower's class because Flower restores a message by the class name.

    Parameters
    ----------
    array : ndarray
        The caller must not change it afterwards.
    """

    def __init__(self, array: npt.NDArray[np.generic]) -> None:
        # Set without the dataclass's __init__: `data` is computed on demand.
        self.__dict__.update(
            dtype=str(array.dtype), shape=array.shape, stype="numpy.ndarray", _array=array
        )

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes of the array, as `flwr.app.Array` serialises it."""
        return flwr.app.Array(self.numpy()).data

    def numpy(self) -> npt.NDArray[np.generic]:
        """Return the array, without a copy."""
        return cast(npt.NDArray[np.generic], self.__dict__["_array"])

    def __reduce__(self) -> tuple[type["Array"], tuple[npt.NDArray[np.generic]]]:
        """Pickle only the array."""
        return Array, (self.numpy(),)


def to_record(arrays: Mapping[str, npt.NDArray[np.generic]]) -> ArrayRecord:
    """Put arrays into a record, without copies."""
    record = ArrayRecord()  # its constructor would convert our arrays to Flower's own
    for name, array in arrays.items():
        record[name] = Array(array)
    return record


def from_record(record: ArrayRecord) -> Arrays:
    """Return the arrays of a record; the caller must not write to them."""
    return {name: array.numpy() for name, array in record.items()}


def to_table(columns: Columns, rows: Iterable[Sequence[Any]]) -> ConfigRecord:
    """Put rows into a record with one list per column."""
    cells = [list(row) for row in rows]
    return ConfigRecord({name: [row[i] for row in cells] for i, name in enumerate(columns)})


def from_table(columns: Columns, record: ConfigRecord | None) -> list[tuple[Any, ...]]:
    """Return the rows of a record, which may hold anything.

    Raises
    ------
    ValueError
        If there is no record, or if it has other columns.
    """
    if not isinstance(record, ConfigRecord) or set(record) != set(columns):
        raise ValueError(f"a table of {', '.join(columns)} is missing")
    lists = [record[name] for name in columns]
    for (name, kind), cells in zip(columns.items(), lists, strict=True):
        if not isinstance(cells, list) or not all(type(cell) is kind for cell in cells):
            raise ValueError(f"the column {name} holds other values than {kind.__name__}")
    if len({len(cells) for cells in lists if isinstance(cells, list)}) > 1:
        raise ValueError("the columns of a table differ in length")
    return list(zip(*lists, strict=True))


def to_bundles(bundles: Iterable[KeyBundle]) -> ConfigRecord:
    """Put clients' keys into a record."""
    return to_table(BUNDLES, (astuple(bundle) for bundle in bundles))


def from_bundles(record: ConfigRecord | None) -> list[KeyBundle]:
    """Return the keys of a record; raise ValueError as `from_table` does."""
    return [KeyBundle(*row) for row in from_table(BUNDLES, record)]


def to_session(session: Session) -> ConfigRecord:
    """Put a session into a record."""
    return ConfigRecord(asdict(session))


def from_session(record: ConfigRecord) -> Session:
    """Return the session of a record.

    Raises
    ------
    ValueError
        If it is not one.
    """
    try:
        session = Session(**record)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError("a session has other fields") from error
    if [type(value) for value in vars(session).values()] != [str, int, int, int, int]:
        raise ValueError("a session has fields of other types")
    return session
