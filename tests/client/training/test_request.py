"""The request in a training message: read back as written, with models from a table only."""

import json
from dataclasses import replace

import pytest

from fedser.client.models.base import ModelConfig
from fedser.client.models.mlp import Mlp
from fedser.client.training.request import MODELS, Hosting, TrainRequest
from fedser.common.errors import UserError
from tests.examples import ATTENTION, federation


def request_of(model):
    asked = federation(None).protocol.train_request("f", "fedavg", None, "cpu", 1, (0,))
    return replace(asked, model=model, hosting=Hosting(((0, "s00", 0),), ("s01",), "none"))


@pytest.mark.parametrize("model", [ATTENTION, Mlp(hidden=[3])])
def test_a_request_reads_back_as_it_was_written(model):
    asked = request_of(model)
    assert TrainRequest.from_json(asked.to_json()) == asked
    json.loads(asked.to_json())


def test_the_table_lists_each_model_under_its_name():
    assert {name: model.name for name, model in MODELS.items()} == {n: n for n in MODELS}
    assert all(issubclass(model, ModelConfig) for model in MODELS.values())


@pytest.mark.parametrize("name", ["fedser.client.models.mlp.Mlp", "subprocess.Popen", "Mlp"])
def test_a_model_outside_the_table_is_rejected(name):
    fields = json.loads(request_of(Mlp(hidden=[3])).to_json())
    fields["model"]["name"] = name
    with pytest.raises(
        UserError, match=f"model.name={name} is not one of mlp, linear, adapter, attention"
    ):
        TrainRequest.from_json(json.dumps(fields))
