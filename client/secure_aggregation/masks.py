"""Masks: uniform integers modulo 2^32 that follow from a seed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

Words = npt.NDArray[np.uint32]

BLOCK = 1 << 15
"""Words that are made at a time, so that they stay in a core's cache."""

_ZEROS = bytes(4 * BLOCK)


def add_mask(parts: Sequence[Words], seed: bytes, sign: int = 1) -> None:
    """Add the mask of a seed to the parts of a vector, modulo 2^32 and in place.

    The mask is the key stream of AES-256 in counter mode. On processors with instructions for AES
    it is four times as fast as ChaCha20.

    Parameters
    ----------
    parts : sequence of ndarray of uint32, shapes (n,), (m,), ...
    seed : bytes of length 32
        Must be used for one vector only.
    sign : int
        1 to add the mask, -1 to subtract it.
    """
    stream = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    block = np.empty(4 * BLOCK + 15, np.uint8)  # the cipher needs one more block
    words = block[: 4 * BLOCK].view("<u4")
    combine = np.add if sign > 0 else np.subtract
    for vector in parts:
        for first in range(0, len(vector), BLOCK):
            part = vector[first : first + BLOCK]
            stream.update_into(_ZEROS[: 4 * len(part)], block.data)
            combine(part, words[: len(part)], out=part)
