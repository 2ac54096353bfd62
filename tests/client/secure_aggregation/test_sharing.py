import secrets
from collections import Counter

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from fedser.client.secure_aggregation import sharing
from fedser.client.secure_aggregation.sharing import PRIME, SHARE_BYTES, combine, split


def test_the_prime_is_the_smallest_above_all_secrets():
    assert sympy.nextprime(2**256) == PRIME
    assert PRIME - 1 < 256**SHARE_BYTES


@given(st.data())
def test_any_shares_at_the_threshold_give_the_secret(data):
    holders = data.draw(st.sets(st.integers(0, 10**6), min_size=1, max_size=12))
    threshold = data.draw(st.integers(1, len(holders)))
    secret = secrets.token_bytes(32)
    shares = split(secret, threshold, holders)
    kept = data.draw(st.permutations(sorted(holders)))[:threshold]
    assert combine({holder: shares[holder] for holder in kept}) == secret


def test_shares_below_the_threshold_are_uniform(monkeypatch):
    # a small field, in which all polynomials can be counted
    monkeypatch.setattr(sharing, "PRIME", 7)
    for secret in range(7):
        seen = Counter()
        for a in range(7):
            for b in range(7):
                drawn = iter([a, b])
                monkeypatch.setattr(secrets, "randbelow", lambda _, drawn=drawn: next(drawn))
                shares = split(secret.to_bytes(32, "big"), 3, [0, 3, 4])
                seen[shares[0], shares[4]] += 1
        assert len(seen) == 49 and set(seen.values()) == {1}  # any two shares: all pairs alike


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_secret_has_32_bytes(secret):
    with pytest.raises(ValueError, match="32 bytes"):
        split(secret, 1, [0])


def test_a_wrong_share_is_noticed_unless_it_gives_a_secret():
    shares = split(bytes(32), 2, [0, 1])
    wrong = (int.from_bytes(shares[0], "big") + PRIME - 1) % PRIME
    changed = {**shares, 0: wrong.to_bytes(SHARE_BYTES, "big")}
    try:
        assert combine(changed) != bytes(32)
    except ValueError as error:
        assert "one of them is wrong" in str(error)
    # the value 2^256 is no secret of 32 bytes: one share of a constant polynomial
    with pytest.raises(ValueError, match="one of them is wrong"):
        combine({0: (2**256).to_bytes(SHARE_BYTES, "big")})
