"""What turns recordings into features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from fedser.common.arrays import Floats

if TYPE_CHECKING:
    pass


class Extractor(Protocol):
    """Turns recordings into a vector, or a sequence of frames, each.

    Must be picklable: it travels to worker processes.
    """

    @property
    def key(self) -> str:
        """Name of everything that determines the values: the folder of the cache."""
        ...

    @property
    def sampling_rate(self) -> int:
        """Of the recordings that it takes, in Hz."""
        ...

    @property
    def batch_size(self) -> int:
        """How many recordings it takes at once, at most; they are of similar length."""
        ...

    @property
    def side_by_side(self) -> bool:
        """Whether worker processes share the work; else it uses cores, or a GPU, by itself."""
        ...

    @property
    def frames(self) -> int | None:
        """How many frames a recording has at most; None: one vector."""
        ...

    def __call__(self, recordings: Sequence[Floats]) -> Sequence[Floats]:
        """Return for recordings (samples,) the features (d,), or (t, d) of t frames, of each."""
        ...
