from dataclasses import fields

import pytest

from fedser.conf.mechanisms import KEYS, MECHANISMS, RELATIONS, UNITS, VANTAGES
from fedser.conf.privacy_keys import PrivacyConfig


@pytest.mark.parametrize("spec", MECHANISMS.values(), ids=list(MECHANISMS))
def test_a_specification_names_only_known_values(spec):
    assert set(spec.needed) | set(spec.optional) <= set(KEYS)
    assert not set(spec.needed) & set(spec.optional)
    assert set(spec.units) <= set(UNITS) and spec.units
    assert set(spec.relations) <= set(VANTAGES) and spec.relations
    assert all(set(allowed) <= set(RELATIONS) for allowed in spec.relations.values())
    assert spec.noise_at in (None, "client", "batches", "server", "shares")


def test_keys_of_mechanisms_are_none_by_default():
    defaults = {field.name: field.default for field in fields(PrivacyConfig)}
    assert {key for key, default in defaults.items() if default is None} == set(KEYS)
