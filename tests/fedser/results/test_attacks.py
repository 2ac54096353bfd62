import pytest

from fedser.results.attacks import attack_series, leaked_order, strongest
from tests.studies import make_attack, make_verification


def test_series_of_one_name_are_named_by_their_differences() -> None:
    attacks = [
        make_attack(leaked_updates="all"),
        make_attack(leaked_updates=20),
        make_attack(leaked_updates=3),
        make_attack(name="cnn", layer="first"),
        make_attack(name="cnn", layer="last", aware=True),
        make_attack(name="cnn", layer="last", shadow_corpora=["nemo"]),
    ]
    series = attack_series(attacks)
    assert list(series) == [
        "correlation",
        "cnn, first, nemo+emodb, unaware",
        "cnn, last, nemo+emodb, aware",
        "cnn, last, nemo, unaware",
    ]
    assert [leaked_order(record) for record in series["correlation"]] == [3, 20, float("inf")]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("vantage", ["attributed", "aggregate", "final"]),
        ("selection", ["random", "earliest"]),
        ("combination", ["updates", "statistics", "log_odds"]),
    ],
)
def test_series_differ_in_what_the_adversary_does(key: str, values: list[str]) -> None:
    attacks = [make_attack(**{key: v}, leaked_updates=n) for v in values for n in (5, 1)]
    series = attack_series(attacks)
    assert list(series) == [f"correlation, {value}" for value in values]
    for value, records in zip(values, series.values(), strict=True):
        assert [(r[key], r["leaked_updates"]) for r in records] == [(value, 1), (value, 5)]


def test_series_differ_in_what_speakers_are_recognised_across() -> None:
    attacks = [make_verification(across=a) for a in ("rounds", "shards")]
    assert list(attack_series(attacks)) == [
        "correlation, speaker across rounds",
        "correlation, speaker across shards",
    ]
    assert list(attack_series([make_attack(), attacks[1]])) == [
        "correlation, gender",
        "correlation, speaker across shards",
    ]


def test_recognition_does_not_compete_with_inference() -> None:
    low, none = make_attack(auc=0.6), make_attack(auc=None)
    assert strongest([make_verification(auc=0.99), low, None, none]) is low
    assert strongest([make_verification(), none]) is None
