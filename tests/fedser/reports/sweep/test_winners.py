import math

import pandas as pd
import pytest

from fedser.reports.sweep.winners import winner_sentences
from fedser.server.privacy.statement import VANTAGES

BASE = {
    **{"corpus": "ravdess", "unit": "client", "vantage": VANTAGES["sum"], "nominal": math.nan},
    **{"public_uar": math.nan, "unprotected_uar": math.nan},
}
NONE = {**BASE, "setting": "none", "mechanism": "none", "unit": None, "vantage": None}


def points(*rows):
    return pd.DataFrame([{**BASE, **row} for row in rows])


def run(setting, mechanism, real, uar, **changes):
    return {"setting": setting, "mechanism": mechanism, "real": real, "uar": uar, **changes}


def test_the_setting_with_the_highest_mean_wins():
    (found,) = winner_sentences(
        points(
            run("a", "central", 7.9999, 60.0),
            run("a", "central", 8.0, 62.0),
            run("b", "central_matrix", 7.99999, 63.0),
            run("b", "central_matrix", 8.0, 65.0),
            run("c", "local", 8.0, 30.0),
        )
    )
    assert found == (
        "ravdess, ε = 8 for one client against whoever sees the sums: central_matrix (b) "
        "recognises best, test UAR 64.0\N{NO-BREAK SPACE}% (mean of 2 runs); then central (a), "
        "61.0\N{NO-BREAK SPACE}%."
    )


@pytest.mark.parametrize("runs", [[(60.0, 64.0), (59.0, 61.0)], [(64.0,), (60.0,)]])
def test_runs_that_overlap_have_no_certain_winner(runs):
    rows = [run("ab"[i], "central", 2.0, uar) for i in (0, 1) for uar in runs[i]]
    (found,) = winner_sentences(points(*rows))
    assert "the runs do not tell the two apart" in found


def test_public_speech_and_no_mechanism_stand_beside_the_winner():
    rows = [
        run("a", "central", 2.0, 50.0, public_uar=44.0, unprotected_uar=60.0),
        run("b", "central", 2.0, 40.0),
    ]
    shown = (
        "public speech alone 44.0\N{NO-BREAK SPACE}%; without a mechanism {}\N{NO-BREAK SPACE}%."
    )
    (found,) = winner_sentences(points(*rows))
    assert found.endswith(shown.format("60.0"))
    plain = [{**NONE, "real": math.nan, "uar": uar} for uar in (66.0, 70.0)]
    (found,) = winner_sentences(points(*rows, *plain))
    assert found.endswith(shown.format("68.0"))


def test_only_one_epsilon_unit_and_observer_is_compared():
    rows = [
        run("a", "central", 8.0, 60.0),
        run("b", "central", 4.0, 50.0),
        run("b", "central", 8.0, 61.0, unit="speaker"),
        run("b", "local", 8.0, 30.0, vantage=VANTAGES["attributed"]),
        run("b", "central", 8.0, 61.0, corpus="nemo"),
        run("b", "udp", 8.0, 70.0, nominal=5.0),  # its epsilon does not hold as published
    ]
    assert winner_sentences(points(*rows)) == []
    assert winner_sentences(pd.DataFrame()) == []


def test_sentences_are_sorted_by_corpus_and_epsilon():
    rows = [
        run(setting, "central", epsilon, 50.0, corpus=corpus)
        for corpus in ("ravdess", "emodb")
        for epsilon in (16.0, 2.0)
        for setting in "ab"
    ]
    found = [sentence.split(" for")[0] for sentence in winner_sentences(points(*rows))]
    assert found == ["emodb, ε = 2", "emodb, ε = 16", "ravdess, ε = 2", "ravdess, ε = 16"]
