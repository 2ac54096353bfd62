"""Feature vectors of openSMILE."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fedser.common.arrays import Floats
from fedser.common.errors import check_choice

if TYPE_CHECKING:
    import opensmile


@dataclass(frozen=True)
class OpenSmile:
    """Functionals of openSMILE (Eyben et al., 2010), for example the 988 of emobase.

    Parameters
    ----------
    feature_set : str
        A name of `opensmile.FeatureSet`.
    sampling_rate : int
        Rate in Hz to which recordings are resampled, so that corpora are comparable.
    """

    feature_set: str
    sampling_rate: int
    batch_size: ClassVar[int] = 1
    side_by_side: ClassVar[bool] = True
    frames: ClassVar[None] = None

    @cached_property
    def key(self) -> str:
        """Feature set, sampling rate, mixdown and package version."""
        return f"{self.feature_set}-{self.sampling_rate}-mono-opensmile{version('opensmile')}"

    def __call__(self, recordings: Sequence[Floats]) -> Floats:
        """Return the functionals of each recording, shape (n, d)."""
        smile = _smile(self.feature_set)
        rows = [smile(recording, self.sampling_rate).reshape(-1) for recording in recordings]
        return np.array(rows, dtype=np.float32)


@cache
def _smile(feature_set: str) -> "opensmile.Smile":
    # Imported here: the import takes two seconds, which a cached run does not need.
    import opensmile

    check_choice("features.feature_set", feature_set, opensmile.FeatureSet.__members__)
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet[feature_set],
        feature_level=opensmile.FeatureLevel.Functionals,
    )
