import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chisquare

from fedser.client.secure_aggregation.masks import BLOCK, add_mask

SEED = bytes(range(32))


def stream(seed, words):
    """AES-256 in counter mode, block by block with the mode that has no counter."""
    ecb = Cipher(algorithms.AES(seed), modes.ECB()).encryptor()
    blocks = b"".join(ecb.update(i.to_bytes(16, "big")) for i in range(-(-words // 4)))
    return np.frombuffer(blocks, "<u4")[:words]


@pytest.mark.parametrize("words", [1, 4, 5, 4001, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_a_mask_is_the_key_stream_of_its_seed(words):
    total = np.zeros(words, np.uint32)
    add_mask([total], SEED)
    np.testing.assert_array_equal(total, stream(SEED, words))


@pytest.mark.parametrize("cuts", [[3], [1, 2, 40_000], [32_768]])
def test_the_parts_of_a_vector_share_one_stream(cuts):
    whole = np.zeros(70_001, np.uint32)
    add_mask([whole], SEED)
    parts = np.split(np.zeros(70_001, np.uint32), cuts)
    add_mask(parts, SEED)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_mask_is_removed_by_its_negative_modulo_two_to_the_32():
    values = np.array([0, 1, 2**31, 2**32 - 1], np.uint32)
    masked = values.copy()
    add_mask([masked], SEED)
    assert not np.array_equal(masked, values)
    add_mask([masked], SEED, -1)
    np.testing.assert_array_equal(masked, values)


def test_every_byte_of_a_mask_is_uniform():
    total = np.zeros(2**16, np.uint32)
    add_mask([total], SEED)
    for shift in (0, 8, 16, 24):
        counts = np.bincount((total >> shift) & 255, minlength=256)
        assert chisquare(counts).pvalue > 1e-4  # the seed is fixed
