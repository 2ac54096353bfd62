"""Gradients of small networks, for tests of attacks on layers."""

import numpy as np

from fedser.attacks.algorithms.base import ShadowUpdates
from fedser.client.corpora.base import EMOTIONS

INPUTS, SIZES = 9, (40, 12, 7)
FIRST, LAST = "dense.0", f"dense.{len(SIZES)}"
LAYERS = [FIRST, "dense.1", "dense.2", LAST]


def gradients(count=3, seed=0, layers=(FIRST,)):
    """Return gradients of a network with three hidden layers and correlated inputs."""
    rng = np.random.default_rng(seed)
    widths = [INPUTS, *SIZES, len(EMOTIONS)]
    mixing = np.random.default_rng(99).normal(size=(INPUTS, INPUTS))
    made = {}
    for number, (n, m) in enumerate(zip(widths, widths[1:], strict=False)):
        weight = rng.normal(size=(count, m, n)) + 0.5
        made[f"dense.{number}.weight"] = weight @ mixing if n == INPUTS else weight
        made[f"dense.{number}.bias"] = rng.normal(size=(count, m))
    return {
        name: array.astype(np.float32)
        for name, array in made.items()
        if name.rsplit(".", 1)[0] in layers
    }


def in_other_orders(made, seed):
    """Return the gradients with the units of each hidden layer in another order."""
    rng = np.random.default_rng(seed)
    orders = [np.arange(INPUTS), *map(rng.permutation, SIZES), np.arange(len(EMOTIONS))]
    found = {}
    for name, array in made.items():
        number = int(name.split(".")[1])
        found[name] = array[:, orders[number + 1]]
        if name.endswith("weight"):
            found[name] = found[name][:, :, orders[number]]
    return found


def stream(made, labels, size=7):
    """Return a stream of examples in batches."""
    starts = range(0, len(labels), size)
    return lambda: (
        ShadowUpdates({n: a[s : s + size] for n, a in made.items()}, labels[s : s + size])
        for s in starts
    )
