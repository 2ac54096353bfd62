"""The gradient of a layer as a set of samples without an order.

Hidden units of independently initialised models are exchangeable. So an attack that is fitted to a
shadow model can use only numbers that do not depend on the order of the units. Input features and
emotions keep their meaning in every model. The gradients of the first and of the last layer are
sets of samples, one sample per hidden unit. A sample has one variable per feature in the first
layer, and one per emotion in the last layer.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from fedser.attacks.algorithms.base import layers_of
from fedser.client.corpora.base import EMOTIONS
from fedser.common.arrays import Floats

FIRST = "dense.0"
LEADING = 5
"""Number of singular values to read. The others show the size of a batch, not its speaker."""


def samples(gradients: Mapping[str, Floats]) -> Iterator[Floats]:
    """Yield the gradient of each layer, with its bias, as (k, samples, variables).

    In the first layer the bias is one more variable of each hidden unit. In the last layer it is
    one more sample. Between two hidden layers only singular values keep their meaning: the
    largest are the variables of a single sample.
    """
    for layer, weight, bias in layers_of(gradients):
        if layer == FIRST:
            yield np.concatenate([weight, bias[:, :, None]], axis=2)
        elif weight.shape[1] == len(EMOTIONS):
            yield np.concatenate([weight.transpose(0, 2, 1), bias[:, None]], axis=1)
        else:
            yield np.linalg.svd(weight, compute_uv=False)[:, None, :LEADING]
