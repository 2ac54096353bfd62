from typing import Any

import pytest

from fedser.conf.build import compose
from fedser.reports.paper.differences import differences
from fedser.reports.paper.published import CORPORA
from tests.studies import make_attack

Results = dict[str, Any]


STUDY = {
    "corpus": {"name": "iemocap"},
    "model": {"dropout": 0.2},
    "features": {"feature_set": "emobase"},
    "normalisation": "speaker",
    "rounds": 200,
    "folds": [0, 1, 2, 3, 4],
}


CNN = {"name": "cnn", "shadow_corpora": ["crema_d", "msp_improv"], "combination": "updates"}


@pytest.mark.parametrize(
    ("config", "attack", "expected"),
    [
        ({}, {}, []),
        ({"corpus": {"name": "ravdess"}}, {}, ["corpus", "shadow"]),
        ({"corpus": {"name": "emodb"}}, {}, ["corpus", "language", "shadow"]),
        ({"corpus": {"name": "mine"}}, {}, ["corpus", "language", "shadow"]),
        ({}, {"shadow_corpora": ["crema_d"]}, ["shadow"]),
        ({}, {"name": "fusion"}, ["attack"]),
        ({}, {"attribute": "age"}, ["attribute"]),
        ({}, {"layer": "last", "aware": True}, ["layer", "aware"]),
        ({}, {"leaked_updates": 5, "combination": "log_odds"}, ["combination"]),
        ({}, {"leaked_updates": 1, "combination": "log_odds"}, []),
        ({}, {"vantage": "aggregate", "selection": "earliest"}, ["vantage", "selection"]),
        ({"attack": {"cnn": {"max_examples": 300}}}, {}, ["examples"]),
        ({"rounds": 50, "normalisation": "corpus"}, {}, ["normalisation", "rounds"]),
        ({"features": {"feature_set": "eGeMAPS"}}, {}, ["features"]),
        ({"features": {"upstream": "decoar2"}}, {}, []),
        ({"folds": [0, 1]}, {}, ["folds"]),
        ({"model": {"dropout": 0.4}}, {}, ["dropout"]),
    ],
)
def test_differences(config: Results, attack: Results, expected: list[str]) -> None:
    assert differences(STUDY | config, make_attack(**(CNN | attack)), "updates") == expected


def test_varied_setting_is_no_difference() -> None:
    last = make_attack(**CNN, layer="last")
    assert differences(STUDY, last, "layers") == []
    assert differences(STUDY | {"model": {"dropout": 0.6}}, make_attack(**CNN), "dropout") == []


@pytest.mark.parametrize("private", CORPORA)
def test_corpus_and_shadows_of_the_study_do_not_differ(private: str) -> None:
    others = [name for name in CORPORA if name != private]
    same = STUDY | {"corpus": {"name": private}}
    assert differences(same, make_attack(**(CNN | {"shadow_corpora": others})), "updates") == []
    assert differences(same, None, "utility") == []
    assert corpora_of_config() == set(CORPORA)


def corpora_of_config() -> set[str]:
    """What our adapters of the study's corpora are called."""
    return {
        compose([f"corpus={name}"]).corpus.name for name in ("iemocap", "msp_improv", "crema_d")
    }


def test_utility_differs_in_corpus_and_protocol_only() -> None:
    own = STUDY | {"corpus": {"name": "emodb"}, "rounds": 2, "model": {"dropout": 0.4}}
    expected = ["corpus", "language", "rounds", "dropout"]
    assert differences(own, None, "utility") == expected
