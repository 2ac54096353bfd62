"""The options of ``conf/features``."""

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from fedser.client.features.huggingface import HuggingFace
from fedser.client.features.logmel import LogMel
from fedser.client.features.opensmile import OpenSmile
from fedser.client.features.s3prl import S3prl


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["features=emobase"], OpenSmile("emobase", 16000)),
        (["features=egemaps"], OpenSmile("eGeMAPSv02", 16000)),
        (["features=compare"], OpenSmile("ComParE_2016", 16000)),
        (["features=logmel"], LogMel(16000, 40, 25, 20, 200)),
        (["features=huggingface", "features.path=/m"], HuggingFace("/m", -1, 8)),
        (
            ["features=huggingface", "features.path=/m", "features.frames=9"],
            HuggingFace("/m", -1, 8, 9),
        ),
        (
            ["features=s3prl", "features.upstream=apc", "features.checkpoint=/c"],
            S3prl("apc", "/c", -1),
        ),
    ],
)
def test_each_option_builds_its_extractor(overrides, expected):
    with initialize_config_module("fedser.conf", version_base="1.3"):
        config = compose(overrides=["+" + overrides[0], *overrides[1:]])
    assert instantiate(config.features) == expected
