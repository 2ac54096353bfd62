"""Arrays in Flower messages, without copies between processes of one machine."""

from typing import cast

import flwr.app
import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord

from fedser.common.arrays import Arrays


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


def to_record(arrays: Arrays) -> ArrayRecord:
    """Put arrays into a record, without copies."""
    record = ArrayRecord()  # its constructor would convert our arrays to Flower's own
    for name, array in arrays.items():
        record[name] = Array(array)
    return record


def from_record(record: ArrayRecord) -> Arrays:
    """Return the arrays of a record; the caller must not write to them."""
    return {name: array.numpy() for name, array in record.items()}
