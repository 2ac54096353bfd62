"""Speech synthesis with eSpeak NG through ctypes."""

import ctypes
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, not to a sound card
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Prosody:
    """Prosody of a sentence, in the units of eSpeak NG.

    Attributes
    ----------
    rate : int
        Words per minute, 80 to 450.
    volume : int
        0 to 200; 100 is normal.
    pitch, pitch_range : int
        0 to 99; 50 is the default of the voice.
    """

    rate: int
    volume: int
    pitch: int
    pitch_range: int


class Espeak:
    """A synthesiser in its initial state; use it as a context manager.

    The library keeps the phase of its oscillators in static variables that no call resets, so a
    repeated sentence gives other samples. A private copy of the library makes the samples
    independent of earlier speech of this process.

    Attributes
    ----------
    sample_rate : int
        Rate of the returned samples, in hertz (22,050).

    References
    ----------
    ``speak_lib.h`` of eSpeak NG 1.52.
    """

    def __enter__(self) -> Self:
        """Load the library and its voices."""
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-")
        copy = shutil.copy(espeakng_loader.get_library_path(), self._folder.name)
        self._library = ctypes.CDLL(str(copy))
        data = str(Path(espeakng_loader.get_data_path())).encode()
        self.sample_rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0))
        if self.sample_rate <= 0:
            raise OSError(
                f"eSpeak NG found no voices in {data.decode()}: reinstall espeakng-loader"
            )
        self._pieces: list[NDArray[np.int16]] = []
        self._callback = _Callback(
            self._collect
        )  # keep a reference: the library only stores a pointer
        self._library.espeak_SetSynthCallback(self._callback)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the memory of the library and remove its copy."""
        self._library.espeak_Terminate()
        self._folder.cleanup()

    def _collect(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, prosody: Prosody) -> NDArray[np.float64]:
        """Synthesise one sentence.

        Parameters
        ----------
        voice : str
            Language and variant, such as ``en+f2``.

        Returns
        -------
        ndarray of shape (samples,)
            Samples from -1 to 1, at `sample_rate`.

        Raises
        ------
        OSError
            If eSpeak NG has no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise OSError(f"eSpeak NG has no voice {voice}")
        for parameter, value in (
            (_RATE, prosody.rate),
            (_VOLUME, prosody.volume),
            (_PITCH, prosody.pitch),
            (_RANGE, prosody.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces.clear()
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _UTF8, None, None)
        return np.concatenate(self._pieces) / 32768.0
