from fedser.conf.mechanisms import MECHANISMS
from fedser.server.privacy.mechanisms import ENTRIES, names_by_layer


def test_every_mechanism_has_an_entry():
    assert list(ENTRIES) == list(MECHANISMS)


def test_parameters_of_a_layer_stay_together():
    shared = {"dense.0.weight": 6, "dense.0.bias": 2, "head.weight": 4}
    assert names_by_layer(shared) == [["dense.0.weight", "dense.0.bias"], ["head.weight"]]
