"""Arrays in Flower messages without a copy for every hop within a machine."""

from typing import cast

import flwr.app
import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord

from fedser.common.arrays import Arrays


class Array(flwr.app.Array):
    """A Flower array that is turned into bytes only where it leaves for the network.

    Within a process it is the NumPy array itself, and pickled with protocol 5, as Ray does, it
    travels through shared memory: receivers must not write to it. Its name is that of Flower's
    class because messages are inflated by that name.

    Parameters
    ----------
    array : ndarray
        Not to be changed from now on.
    """

    def __init__(self, array: npt.NDArray[np.generic]) -> None:
        # Not as attributes of a dataclass: `data` is made when somebody asks for it.
        self.__dict__.update(
            dtype=str(array.dtype), shape=array.shape, stype="numpy.ndarray", _array=array
        )

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The array as `flwr.app.Array` serialises it."""
        return flwr.app.Array(self.numpy()).data

    def numpy(self) -> npt.NDArray[np.generic]:
        """Return the array, not a copy."""
        return cast(npt.NDArray[np.generic], self.__dict__["_array"])

    def __reduce__(self) -> tuple[type["Array"], tuple[npt.NDArray[np.generic]]]:
        """Pickle the array alone."""
        return Array, (self.numpy(),)


def to_record(arrays: Arrays) -> ArrayRecord:
    """Put arrays into a record, without a copy."""
    record = ArrayRecord()  # given a dict it would make Flower's own arrays of ours
    for name, array in arrays.items():
        record[name] = Array(array)
    return record


def from_record(record: ArrayRecord) -> Arrays:
    """Return a record's arrays, which must not be written to."""
    return {name: array.numpy() for name, array in record.items()}
