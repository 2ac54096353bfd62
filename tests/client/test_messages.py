"""Arrays in messages: shared within a machine, Flower's own on the network."""

import pickle

import flwr.app
import numpy as np
import pytest
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedser.client.messages import from_record, to_record
from fedser.common.arrays import Arrays


@pytest.fixture
def arrays() -> Arrays:
    """Parameters of two shapes, one of them empty."""
    return {
        "weight": np.random.default_rng(0).standard_normal((3, 4, 5), dtype=np.float32),
        "bias": np.zeros((0, 4), np.float32),
    }


def test_within_a_process_nothing_is_copied(arrays: Arrays) -> None:
    assert from_record(to_record(arrays))["weight"] is arrays["weight"]


def test_pickled_as_ray_does_the_array_travels_out_of_band(arrays: Arrays) -> None:
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(to_record(arrays), protocol=5, buffer_callback=buffers.append)
    received = from_record(pickle.loads(text, buffers=buffers))
    assert np.shares_memory(received["weight"], arrays["weight"])
    assert len(text) < 1000


def test_on_the_network_it_is_flowers_own_array(arrays: Arrays) -> None:
    content = RecordDict({"arrays": to_record(arrays)})
    content.object_id  # noqa: B018  # Flower computes it, and keeps views of the bytes
    whole = recorddict_from_proto(recorddict_to_proto(content))
    parts = {i: o.deflate() for i, o in get_all_nested_objects(content).items()}
    in_parts = inflate_object_from_contents(content.object_id, parts)
    assert isinstance(in_parts, RecordDict)
    plain = flwr.app.ArrayRecord({n: flwr.app.Array(a) for n, a in arrays.items()})
    assert content["arrays"].object_id == plain.object_id
    for received in (whole, in_parts, pickle.loads(pickle.dumps(content))):
        found = from_record(received.array_records["arrays"])
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
