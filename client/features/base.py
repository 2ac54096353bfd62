"""The interface of feature extractors."""

from collections.abc import Sequence
from typing import Protocol

from fedser.common.arrays import Floats


class Extractor(Protocol):
    """Converts each recording into a feature vector or a sequence of frames.

    It must be picklable, because it is sent to worker processes.
    """

    @property
    def key(self) -> str:
        """Name of the cache folder; it must change when the feature values change."""
        ...

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the input recordings, in Hz."""
        ...

    @property
    def batch_size(self) -> int:
        """Largest number of recordings per call; they have similar lengths."""
        ...

    @property
    def side_by_side(self) -> bool:
        """Whether to run in several processes; otherwise it uses all cores or a GPU by itself."""
        ...

    @property
    def frames(self) -> int | None:
        """Largest number of frames per recording; None means one vector per recording."""
        ...

    def __call__(self, recordings: Sequence[Floats]) -> Sequence[Floats]:
        """Return the features of each recording (samples,): shape (d,), or (t, d) for t frames."""
        ...
