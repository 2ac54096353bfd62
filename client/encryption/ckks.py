"""Sums under the encryption of Cheon, Kim, Kim and Song (2017), by TenSEAL and Microsoft SEAL.

Everybody can encrypt and add; only the owner of the secret key can decrypt. Values are multiples of
`STEP`, and the errors of a sum of at most `MAX_CLIENTS` ciphertexts are far below half a step. So a
decrypted sum is rounded to the exact sum, and carries nothing of the errors, which depend on the
secret key (Li and Micciancio, 2021).

SEAL encrypts with both moduli and drops the second one, so the error of a fresh ciphertext is that
of rounding: its standard deviation on a slot is ``sqrt(N/2 (2 + 2N/3) / 12) / SCALE`` = 6.4e-7 for
the degree N, because a coefficient of the secret key is -1, 0 or 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedser.common.arrays import Floats64
from fedser.common.errors import UserError

DEGREE = 4096
"""Degree N of the polynomials."""

MODULUS_BITS = (48, 48)
"""Bits of the two moduli. Their sum is below 109, the most for 128 bits of security at this degree
(Homomorphic Encryption Standard, 2018; SEAL's own table). A ciphertext has the first one only."""

SCALE = 2.0**30
"""Factor by which values are multiplied before they become integers."""

SLOTS = DEGREE // 2
"""Values of one ciphertext."""

STEP = 2.0**-12
"""Values are multiples of this step."""

RANGE = 2.0**16
"""Largest absolute value of a sum: half of what the first modulus holds."""

MAX_CLIENTS = 1000
"""With more ciphertexts in a sum its errors could come near to half a step (six deviations)."""

MAX_BYTES = 2 * DEGREE * 8 + 2**10
"""Bytes of a ciphertext, at most: two polynomials without compression, and headers."""

MAX_KEY_BYTES = 2**18
"""Bytes of a public key with its parameters, at most."""

Steps = npt.NDArray[np.int64]
"""Multiples of `STEP`."""


def tenseal() -> Any:
    """Return the module; raise UserError if it is not installed."""
    try:
        import tenseal.sealapi  # so that the parameters of a context can be read
    except ImportError as error:
        raise UserError(
            "privacy.aggregation=ckks: the package tenseal is not installed: "
            "pip install 'fedser[encrypted]'"
        ) from error
    return tenseal


class SecretKey:
    """A new pair of keys, and the decryption of one sum."""

    def __init__(self) -> None:
        self._context = tenseal().context(
            tenseal().SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(MODULUS_BITS)
        )
        self._context.global_scale = SCALE

    @property
    def public(self) -> bytes:
        """The public key with the parameters, for `PublicKey`."""
        content: bytes = self._context.serialize(
            save_public_key=True,
            save_secret_key=False,
            save_galois_keys=False,
            save_relin_keys=False,
        )
        return content

    def decrypt(self, parts: Sequence[bytes]) -> Steps:
        """Return the values (d,) of ciphertexts, rounded to multiples of `STEP`.

        Raises
        ------
        ValueError
            If there are none, or if one cannot be read or has other parameters.
        """
        found = np.concatenate([_load(self._context, part).decrypt() for part in parts])
        return np.rint(found / STEP).astype(np.int64)


class PublicKey:
    """Encrypts values, and reads ciphertexts that were encrypted under the same parameters.

    Parameters
    ----------
    content : bytes
        As `SecretKey.public` returns it; it may come from anybody.

    Raises
    ------
    ValueError
        If it is no public key, or has other parameters than this module.
    """

    def __init__(self, content: bytes) -> None:
        if len(content) > MAX_KEY_BYTES:
            raise ValueError("a public key is too long")
        try:
            self._context = tenseal().context_from(content)
            parameters = self._context.seal_context().data.key_context_data().parms()
            bits = [modulus.bit_count() for modulus in parameters.coeff_modulus()]
            found = parameters.poly_modulus_degree(), bits, self._context.global_scale
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"no public key ({error})") from error
        if found != (DEGREE, list(MODULUS_BITS), SCALE) or self._context.is_private():
            raise ValueError("a public key has other parameters")

    def encrypt(self, values: Floats64, clients: int) -> list[bytes]:
        """Encrypt values (d,), rounded to multiples of `STEP`, `SLOTS` in each ciphertext.

        Parameters
        ----------
        clients : int
            Clients in the sum, at most.

        Raises
        ------
        ValueError
            If the sum of so many values like these may be above `RANGE`, or a value is not finite.
        """
        if not np.abs(values).max(initial=0) <= RANGE / clients:
            raise ValueError(f"a value is above {RANGE / clients:g}, too large for a sum")
        rounded = np.rint(values / STEP) * STEP
        return [
            tenseal().ckks_vector(self._context, rounded[i : i + SLOTS]).serialize()
            for i in range(0, len(rounded), SLOTS)
        ]

    def read(self, parts: Sequence[bytes], size: int) -> list[Any]:
        """Return the ciphertexts of `size` values, which may hold anything.

        Raises
        ------
        ValueError
            If they cannot be read, or have other parameters or another number of values.
        """
        sizes = [min(SLOTS, size - first) for first in range(0, size, SLOTS)]
        if len(parts) != len(sizes):
            raise ValueError(f"{len(parts)} ciphertexts, and {len(sizes)} were asked")
        found = [_load(self._context, part) for part in parts]
        if [part.size() for part in found] != sizes:
            raise ValueError("a ciphertext has another number of values")
        return found


def _load(context: Any, part: bytes) -> Any:
    """Read one ciphertext; SEAL checks that its polynomials fit the parameters."""
    if len(part) > MAX_BYTES:
        raise ValueError("a ciphertext is too long")
    try:
        found = tenseal().ckks_vector_from(context, part)
        content = found.ciphertext()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"no ciphertext ({error})") from error
    if len(content) != 1 or content[0].size() != 2 or content[0].scale != SCALE:
        raise ValueError("a ciphertext has other parameters")
    if content[0].is_transparent():  # SEAL refuses to add it
        raise ValueError("a ciphertext is not encrypted")
    return found
