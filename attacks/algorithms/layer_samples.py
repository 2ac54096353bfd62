"""A layer's gradient as samples that come in no order.

Hidden units of independently initialised models are exchangeable, so only what does not depend
on their order carries over from a shadow model to the victims'. Input features and emotions
keep their meaning: the first layer's gradient is a set of samples, one a hidden unit, of as
many variables as there are features, and the last layer's one of as many as there are emotions.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from fedser.attacks.algorithms.base import layers_of
from fedser.client.corpora.base import EMOTIONS
from fedser.common.arrays import Floats

FIRST = "dense.0"
LEADING = 5
"""Singular values to read: how many there are tells of a batch's size, not of its speaker."""


def samples(gradients: Mapping[str, Floats]) -> Iterator[Floats]:
    """Yield each layer's gradient as (k, hidden units, variables), the bias with it.

    The bias is a variable more of the first layer, whose inputs are the variables, and a
    sample more of the last, whose outputs are. Between two hidden layers nothing keeps its
    meaning but the singular values: the largest are the variables, of a single sample.
    """
    for layer, weight, bias in layers_of(gradients):
        if layer == FIRST:
            yield np.concatenate([weight, bias[:, :, None]], axis=2)
        elif weight.shape[1] == len(EMOTIONS):
            yield np.concatenate([weight.transpose(0, 2, 1), bias[:, None]], axis=1)
        else:
            yield np.linalg.svd(weight, compute_uv=False)[:, None, :LEADING]
