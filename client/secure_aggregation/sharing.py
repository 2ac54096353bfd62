"""Shamir's secret sharing: any t of n shares give the secret, and fewer tell nothing about it.

The shares are values of a polynomial of degree t - 1 over the integers modulo a prime above 2^256.
Its coefficients are uniform, and its value at 0 is the secret (Shamir, 1979). PyCryptodome's shares
over GF(2^128) would do the same, but take a hundred times as long.
"""

import secrets
from collections.abc import Iterable, Mapping

PRIME = 2**256 + 297
"""The smallest prime above 2^256."""

SHARE_BYTES = 33
SECRET_BYTES = 32


def split(secret: bytes, threshold: int, holders: Iterable[int]) -> dict[int, bytes]:
    """Return a share of a secret for each holder.

    Parameters
    ----------
    secret : bytes of length 32
    threshold : int
        Number of shares that give the secret.
    holders : iterable of int
        Numbers of at least 0; they are public.
    """
    if len(secret) != SECRET_BYTES or threshold < 1:
        raise ValueError("a secret has 32 bytes, and at least one share is needed")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in coefficients:
            value = (value * (holder + 1) + coefficient) % PRIME
        shares[holder] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of exactly t shares, by Lagrange's interpolation at 0.

    Raises
    ------
    ValueError
        If the result is no secret: a share is wrong.
    """
    secret = 0
    for holder, share in shares.items():
        above = below = 1
        for other in shares:
            if other != holder:
                above = above * (other + 1) % PRIME
                below = below * (other - holder) % PRIME
        secret += int.from_bytes(share, "big") * above * pow(below, -1, PRIME)
    try:
        return (secret % PRIME).to_bytes(SECRET_BYTES, "big")
    except OverflowError:
        raise ValueError("the shares give no secret: one of them is wrong") from None
