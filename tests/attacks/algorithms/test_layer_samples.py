"""Samples of a layer's gradient."""

from fedser.attacks.algorithms.layer_samples import samples
from fedser.client.corpora.base import EMOTIONS
from tests.attacks.algorithms.networks import INPUTS, LAYERS, gradients


def test_samples_are_units_and_variables_are_inputs_or_emotions():
    made = gradients(layers=LAYERS)
    shapes = [sample.shape for sample in samples(made)]
    assert shapes == [(3, 40, INPUTS + 1), (3, 1, 5), (3, 1, 5), (3, 8, len(EMOTIONS))]
