import importlib.util
import random

import numpy as np
import pyarrow
import pytest

from fedser.client.encryption.ckks import (
    DEGREE,
    MAX_BYTES,
    MAX_KEY_BYTES,
    MODULUS_BITS,
    RANGE,
    SCALE,
    SLOTS,
    STEP,
    PublicKey,
    SecretKey,
)

if importlib.util.find_spec("tenseal") is None:
    pytest.skip("needs tenseal: pip install 'fedser[encrypted]'", allow_module_level=True)

import tenseal

SECRET = SecretKey()
PUBLIC = PublicKey(SECRET.public)
SIZE = SLOTS + 10


def values(seed=0, size=SIZE):
    return np.random.default_rng(seed).normal(0, 1, size)


def context(scale=SCALE, degree=DEGREE, bits=MODULUS_BITS):
    made = tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=list(bits))
    made.global_scale = scale
    return made


def test_a_sum_of_100_clients_is_exact_but_for_their_rounding():
    updates = np.array([values(seed) for seed in range(100)])
    total = PUBLIC.read(PUBLIC.encrypt(updates[0], 100), SIZE)
    for update in updates[1:]:
        for part, added in zip(total, PUBLIC.read(PUBLIC.encrypt(update, 100), SIZE), strict=True):
            part += added
    steps = SECRET.decrypt([part.serialize() for part in total])
    assert np.array_equal(steps, np.rint(updates / STEP).astype(np.int64).sum(axis=0))
    # each client rounds a value by half a step at most
    assert np.abs(steps * STEP - updates.sum(axis=0)).max() <= 100 * STEP / 2
    # the error of the ciphertexts, before it is rounded away, is as the arithmetic says
    of_one = np.sqrt(DEGREE / 2 * (2 + 2 * DEGREE / 3) / 12) / SCALE
    raw = np.concatenate(
        [tenseal.ckks_vector_from(SECRET._context, p.serialize()).decrypt() for p in total]
    )
    assert np.std(raw - steps * STEP) == pytest.approx(10 * of_one, rel=0.1)


def test_the_largest_sum_and_the_cohort_that_fit():
    full = np.array([RANGE / 2, -RANGE / 2])
    total = PUBLIC.read(PUBLIC.encrypt(full, 2), 2)[0]
    total += PUBLIC.read(PUBLIC.encrypt(full, 2), 2)[0]
    assert (SECRET.decrypt([total.serialize()]) * STEP).tolist() == [RANGE, -RANGE]
    for wrong in (RANGE / 2 + 1, np.inf, np.nan):
        with pytest.raises(ValueError, match="too large for a sum"):
            PUBLIC.encrypt(np.array([0.0, wrong]), 2)


def test_bytes_of_a_ciphertext_and_a_key():
    whole, last = PUBLIC.encrypt(values(), 2)
    assert len(whole) < MAX_BYTES and len(last) < MAX_BYTES
    assert len(whole) / SLOTS == pytest.approx(27.4, abs=0.2)
    assert len(SECRET.public) < MAX_KEY_BYTES


def test_a_public_key_holds_no_secret():
    assert not PUBLIC._context.is_private()
    with pytest.raises(ValueError, match="no public key|other parameters"):
        PublicKey(SECRET._context.serialize(save_secret_key=True))
    ciphertext = PUBLIC.read(PUBLIC.encrypt(values(), 2), SIZE)[0]
    with pytest.raises(ValueError):
        ciphertext.decrypt()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 100,
        bytes(MAX_KEY_BYTES + 1),
        context(scale=2.0**20).serialize(save_secret_key=False),
        context(degree=8192).serialize(save_secret_key=False),
        context(bits=(40, 40)).serialize(save_secret_key=False),
    ],
)
def test_other_keys_are_rejected(content):
    with pytest.raises(ValueError, match="public key"):
        PublicKey(content)


def encrypted_by(other, size=SLOTS, scale=SCALE):
    return tenseal.ckks_vector(other, [0.5] * size, scale).serialize()


def transparent():
    """A ciphertext with zeros as its second polynomial: SEAL adds no two of them."""
    made = encrypted_by(SECRET._context)
    # SEAL's header: five bytes of its form, the compression, two bytes of nothing, the length.
    begin = made.index(bytes.fromhex("5ea11004"))
    length = int.from_bytes(made[begin + 8 : begin + 16], "little")
    zipped = pyarrow.BufferReader(made[begin + 16 : begin + length])
    raw = pyarrow.CompressedInputStream(zipped, "zstd").read()[: -8 * DEGREE] + bytes(8 * DEGREE)
    size = 16 + len(raw)
    header = made[begin : begin + 5] + bytes(3) + size.to_bytes(8, "little")
    of_protobuf = bytes([0x12, size & 127 | 128, size >> 7 & 127 | 128, size >> 14])
    before = made[: made.index(0x12)]
    return before + of_protobuf + header + raw + made[begin + length :]


HOSTILE = {
    "empty": b"",
    "garbage": random.Random(0).randbytes(60_000),
    "long": bytes(MAX_BYTES + 1),
    "degree": encrypted_by(context(degree=8192)),
    "moduli": encrypted_by(context(bits=(40, 48))),
    "scale": encrypted_by(SECRET._context, scale=2.0**20),
    "few": encrypted_by(SECRET._context, SLOTS - 1),
    "cut": encrypted_by(SECRET._context)[:-1],
    "key": SECRET.public,
    "transparent": transparent(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_ciphertexts_are_rejected(kind):
    _, last = PUBLIC.encrypt(values(), 2)
    with pytest.raises(ValueError):
        PUBLIC.read([HOSTILE[kind], last], SIZE)


def test_another_number_of_ciphertexts_is_rejected():
    parts = PUBLIC.encrypt(values(), 2)
    for wrong in ([], parts[:1], [*parts, parts[1]], parts[::-1]):
        with pytest.raises(ValueError):
            PUBLIC.read(wrong, SIZE)


def test_changed_bytes_end_no_process():
    good, rng = PUBLIC.encrypt(values(size=10), 2)[0], random.Random(1)
    (total,) = PUBLIC.read([good], 10)
    rejected = 0
    for _ in range(2000):
        changed = bytearray(good)
        for _ in range(rng.choice([1, 2, 20])):
            changed[rng.randrange(rng.choice([40, 200, len(good)]))] = rng.randrange(256)
        try:
            (part,) = PUBLIC.read([bytes(changed)], 10)
            total += part  # what is loaded can be added
        except ValueError:
            rejected += 1
    assert rejected > 1000
