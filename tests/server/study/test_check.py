"""Configurations that are rejected before any data is read."""

from dataclasses import replace

import pytest

from fedser.common.errors import UserError
from fedser.conf.algorithm_keys import TranscriptConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.training_keys import TrainingConfig
from fedser.server.study.check import check_config
from tests.server.study.test_federations import CALIBRATED, study


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_mechanism_without_noise_is_rejected_with_the_keys(name):
    with pytest.raises(UserError, match=f"privacy={name} takes either privacy.epsilon or privacy"):
        study(f"privacy={name}")
    assert study(f"privacy={name}", "privacy.noise_multiplier=2").privacy.noise_multiplier == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalisation": "median"}, "normalisation=median is not one of speaker, corpus, none"),
        ({"cohort_fraction": 0.0}, "cohort_fraction=0.0 must lie in"),
        ({"folds": []}, "folds=.* must be a list of numbers from 0 to 4"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"training": TrainingConfig(engine="gpu")}, "training.engine=gpu is not one of stacked"),
        ({"transcript": TranscriptConfig(dtype="int8")}, "transcript.dtype=int8 is not one of"),
        ({"transcript": TranscriptConfig(layers="third")}, "transcript.layers: third is not one"),
        ({"privacy": PrivacyConfig(layers="third")}, "privacy.layers: third is not one of"),
    ],
)
def test_values_out_of_range_are_rejected(change, message):
    with pytest.raises(UserError, match=message):
        check_config(replace(study(), **change))


def test_real_nodes_reject_normalisation_over_all_speakers():
    with pytest.raises(UserError, match="normalisation=corpus needs .* choose speaker or none"):
        study("runtime=network", "normalisation=corpus")


def test_real_nodes_reject_custom_mechanisms():
    custom = PrivacyConfig(mechanism="custom", custom={"_target_": "rounding.Rounding"})
    with pytest.raises(UserError, match="privacy.mechanism=custom: real nodes apply only"):
        check_config(replace(study("runtime=network"), privacy=custom))
