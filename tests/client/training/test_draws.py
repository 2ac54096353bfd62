import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fedser.client.training.draws import Draws, client_keys, hashes, hashes_on_device

DRAWS = Draws(client_keys(0, range(2000), "training", "f", 3), 0.2)


def kept(draws, layer=0, step=0, rows=5):
    return draws.masks(step, rows, [40, 40])[layer] > 0


def test_numbers_do_not_depend_on_the_other_clients():
    alone = Draws(client_keys(0, [7], "training", "f", 3), 0.2)
    some = Draws(client_keys(0, [1999, 7], "training", "f", 3), 0.2)
    picked = DRAWS[torch.tensor([1999, 7])]
    sizes = torch.full((2000,), 26)
    assert torch.equal(DRAWS.orders(1, sizes)[7], alone.orders(1, sizes[:1])[0])
    assert torch.equal(kept(DRAWS)[7], kept(alone)[0])
    assert torch.equal(kept(some)[1], kept(alone)[0])
    assert torch.equal(picked.keys, some.keys) and picked.dropout == some.dropout
    assert torch.equal(DRAWS[7:8].keys, alone.keys)
    assert torch.equal(kept(alone, rows=3)[0], kept(alone)[0, :3])


def test_an_order_is_a_permutation_and_padding_comes_last():
    sizes = torch.tensor([1, 26, 13] * 100)
    orders = Draws(DRAWS.keys[:300], 0.2).orders(0, sizes)
    assert orders.shape == (300, 26)
    for order, size in zip(orders, sizes.tolist(), strict=True):
        assert sorted(order[:size].tolist()) == list(range(size))


@pytest.mark.parametrize("place", [0, 1, 25])
def test_every_utterance_is_equally_often_at_a_place(place):
    orders = torch.cat([DRAWS.orders(e, torch.full((2000,), 26)) for e in range(20)])
    counts = np.bincount(orders[:, place].numpy(), minlength=26)
    assert chisquare(counts).pvalue > 1e-4
    neighbours = orders[:, place - 1] * 26 + orders[:, place]
    pairs = np.bincount(neighbours.numpy(), minlength=26 * 26).reshape(26, 26)
    assert chisquare(pairs[~np.eye(26, dtype=bool)]).pvalue > 1e-4 and not pairs.trace()


def test_masks_drop_their_share_and_keep_the_mean():
    masks, other = DRAWS.masks(0, 5, [40, 7])
    assert masks.unique().tolist() == [0.0, 1.25] and other.shape == (2000, 5, 7)
    share = (masks > 0).double()
    assert share.mean().item() == pytest.approx(0.8, abs=4 * 0.4 / 400_000**0.5)
    for axes in ((1, 2), (0,)):  # by client; by place
        spread = share.mean(axes).std().item()
        many = share.numel() / share.mean(axes).numel()
        assert spread == pytest.approx(0.4 / many**0.5, rel=0.1)


@pytest.mark.parametrize(
    "other",
    [
        kept(DRAWS, layer=1),
        kept(DRAWS, step=1),
        kept(DRAWS).roll(1, 0),
        kept(DRAWS).roll(1, 1),
        kept(DRAWS).roll(1, 2),
        kept(Draws(client_keys(1, range(2000), "training", "f", 3), 0.2)),
        kept(Draws(client_keys(0, range(2000), "training", "f", 4), 0.2)),
    ],
    ids=["layer", "step", "client", "row", "unit", "seed", "round"],
)
def test_masks_of_different_places_are_uncorrelated(other):
    pairs = torch.stack([kept(DRAWS).flatten(), other.flatten()]).double()
    assert abs(torch.corrcoef(pairs)[0, 1].item()) < 4.5 / 400_000**0.5


def test_keys_differ_between_clients():
    assert len(client_keys(0, range(10_000), "training").unique()) >= 9_998


def test_dropout_zero_drops_nothing():
    assert kept(Draws(DRAWS.keys, 0.0)).all()


def splitmix(key, start, place):
    """The hash in Python integers: SplitMix's counter, MurmurHash3's finaliser."""
    x = (key + start + place * 0x9E3779B9) % 2**32
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_numbers_are_the_hash_of_their_counter_everywhere():
    keys, count = client_keys(0, range(50), "training"), 300
    for start in (-(2**31), -5, 2**31 - 1):
        expected = [[splitmix(key, start, i) for i in range(count)] for key in keys.tolist()]
        expected = np.array(expected, np.uint32).view(np.int32)
        np.testing.assert_array_equal(hashes(keys.numpy(), start, count), expected)
        np.testing.assert_array_equal(hashes_on_device(keys, start, count), expected)
