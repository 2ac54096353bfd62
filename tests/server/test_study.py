from collections import Counter
from dataclasses import replace

import pytest

from client.errors import UserError
from server.cohort import fixed_size_cohort
from server.run import compose, study_config
from server.study import check_config, private_federations
from tests.examples import corpus


def study(*overrides):
    return study_config(compose(["rounds=30", "cohort_fraction=0.3", *overrides]))


def test_every_fold_holds_out_its_own_speakers(tmp_path):
    data = corpus(speakers=11)
    federations = private_federations(study("folds=[0,2,4]"), data, tmp_path)
    assert [f.name for f in federations] == ["private-fold0", "private-fold2", "private-fold4"]
    for federation in federations:
        held_out = set(data.speakers) - set(federation.clients.speakers)
        assert len(federation.test[1]) == 12 * len(held_out)
        assert federation.folder == tmp_path / "transcript" / federation.name


@pytest.mark.parametrize("unit", ["client", "speaker"])
def test_noise_is_calibrated_to_the_busiest_unit_of_the_schedule(tmp_path, unit):
    data = corpus(shards=2)
    config = study("privacy=local", "privacy.epsilon=8", f"privacy.unit={unit}", "folds=[1]")
    (federation,) = private_federations(config, data, tmp_path)
    taken = Counter()
    for server_round in range(1, 31):
        for client in fixed_size_cohort(16, 0.3, 0, "private-fold1", server_round):
            taken[federation.clients.speakers[client] if unit == "speaker" else client] += 1
    assert federation.protocol.plan.releases == max(taken.values())


def test_layers_that_are_not_shared_are_named_out(tmp_path):
    config = study("privacy=local", "privacy.epsilon=8", "privacy.layers=last", "folds=[0]")
    (federation,) = private_federations(config, corpus(), tmp_path)
    assert federation.protocol.plan.shared == ("dense.2.weight", "dense.2.bias")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalisation": "median"}, "normalisation=median is not one of speaker, corpus, none"),
        ({"cohort_fraction": 0.0}, "cohort_fraction=0.0 must lie in"),
        ({"folds": []}, "folds=.* must name some of 0 to 4"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
    ],
)
def test_values_that_types_cannot_refuse_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        check_config(replace(study(), **change))
