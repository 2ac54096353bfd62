"""Log-mel energies per frame, for models that read sequences of frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.fft import next_fast_len, rfft
from scipy.signal import get_window

from fedser.common.arrays import Floats
from fedser.common.errors import UserError

FLOOR = 1e-10
"""Smallest energy of a band, for samples from -1 to 1; it limits the logarithm."""


@dataclass(frozen=True)
class LogMel:
    """Logarithms of energies in triangular bands of equal width on the mel scale of HTK.

    Parameters
    ----------
    sampling_rate : int
        Rate in Hz to which recordings are resampled.
    bands : int
        Number of features per frame; the bands cover 0 Hz to half the sampling rate.
    window, hop : int
        Length of the Hann window and step between two windows, in ms.
    frames : int
        Largest number of frames per recording; later frames are dropped.
    """

    sampling_rate: int
    bands: int
    window: int
    hop: int
    frames: int
    batch_size: ClassVar[int] = 1
    side_by_side: ClassVar[bool] = True

    @cached_property
    def key(self) -> str:
        """All parameters, as a name for the cache folder.

        Raises
        ------
        UserError
            If a parameter is below 1, or a band is too narrow to contain a frequency.
        """
        for name in ("sampling_rate", "bands", "window", "hop", "frames"):
            if getattr(self, name) < 1:
                raise UserError(f"features.{name}={getattr(self, name)}: must be at least 1")
        if empty := int((self._filters.max(axis=1) == 0).sum()):
            raise UserError(
                f"features.bands={self.bands}: {empty} band(s) would contain no frequency of a "
                f"window of {self.window} ms: lower features.bands or raise features.window"
            )
        return (
            f"logmel-{self.sampling_rate}-{self.bands}bands-{self.window}ms-every{self.hop}ms-"
            f"{self.frames}frames"
        )

    def __call__(self, recordings: Sequence[Floats]) -> list[Floats]:
        """Return the frames (t, bands) of each recording.

        Raises
        ------
        ValueError
            If a recording is shorter than a window.
        """
        return [self._log_energies(samples) for samples in recordings]

    def _log_energies(self, samples: Floats) -> Floats:
        width, hop = self._samples(self.window), self._samples(self.hop)
        if len(samples) < width:
            raise ValueError(f"shorter than a window of {self.window} ms")
        windows = np.lib.stride_tricks.sliding_window_view(samples, width)[::hop][: self.frames]
        spectrum = rfft(windows * get_window("hann", width), n=self._size)
        energies = np.abs(spectrum) ** 2 @ self._filters.T
        return np.asarray(np.log(np.maximum(energies, FLOOR)), dtype=np.float32)

    def _samples(self, milliseconds: int) -> int:
        return max(1, milliseconds * self.sampling_rate // 1000)

    @property
    def _size(self) -> int:
        """Length of the Fourier transform: the window, padded with zeros to a fast length."""
        return int(next_fast_len(self._samples(self.window), real=True))

    @cached_property
    def _filters(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Weight of each frequency in each band, shape (bands, size // 2 + 1)."""
        top = 2595 * np.log10(1 + self.sampling_rate / 2 / 700)
        edges = 700 * (10 ** (np.linspace(0, top, self.bands + 2) / 2595) - 1)
        low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        hertz = np.arange(self._size // 2 + 1) * self.sampling_rate / self._size
        rising, falling = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
        return np.maximum(0, np.minimum(rising, falling))
