"""Checks of the adversary before the training, and the evaluation of its attacks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedser.attacks.adversary.reidentify import score_pairs
from fedser.attacks.evaluation import audit
from fedser.attacks.evaluation.attribute import FIGURES
from fedser.attacks.evaluation.reidentification import evaluate_reidentification
from fedser.common.errors import UserError
from fedser.conf.build import compose
from fedser.server.study.federations import private_federations
from fedser.server.study.run import study_config
from fedser.stages import attack as stage
from fedser.stages.attack import _evaluate
from fedser.stages.check import check_adversary
from tests.examples import corpus

PRIVATE, SHADOWS = corpus("private"), [corpus("a", seed=1), corpus("b", speakers=6, seed=2)]


def study(*overrides):
    return study_config(compose(list(overrides)))


def check(*overrides, private=PRIVATE, shadows=SHADOWS):
    return check_adversary(study(*overrides), private, shadows)


def only(data, gender):
    """Return the corpus with one gender for all speakers except the first."""
    listed = [
        replace(u, attributes=u.attributes | {"gender": "male" if u.speaker == "s00" else gender})
        for u in data.utterances
    ]
    return replace(data, utterances=listed)


def test_classes_are_the_shadow_speakers():
    assert check() == ["female", "male"]
    speakers = [f"a/s{n:02d}" for n in range(10)] + [f"b/s{n:02d}" for n in range(6)]
    assert check("adversary.attribute=speaker") == speakers


@pytest.mark.parametrize(
    "overrides",
    [
        ["attack=[snapshot]"],
        ["attack=[correlation,snapshot,fusion]"],
        ["attack=[statistics,fusion]", "attack.fusion.of=[statistics]"],
        ["adversary.layers=[first,dense.0]"],
        ["adversary.layers=[last,'first,last',all]", "transcript.layers=all"],
        ["adversary.layers=[last]", "transcript.layers=last"],
        ["adversary.vantage=final", "adversary.initial_weights=false"],
        ["adversary.leaked_updates=[1,all,7]"],
        ["privacy.aggregation=ckks", "adversary.vantage=aggregate"],
        ["privacy.aggregation=ckks", "adversary.vantage=final"],
        ["privacy.kept=0.1"],
    ],
)
def test_settings_that_can_run_are_allowed(overrides):
    assert check(*overrides) == ["female", "male"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adversary.bootstraps=0"], r"adversary\.bootstraps=0 must be at least 1"),
        (["adversary.shadow_federations=0"], r"adversary\.shadow_federations=0 must be at least"),
        (
            ["adversary.leaked_updates=[1,0]"],
            r"leaked_updates: 0 must be a count of at least 1, or all",
        ),
        (["adversary.leaked_updates=[1.5]"], r"leaked_updates: 1\.5 must be a count"),
        (["adversary.layers=[]"], r"adversary\.layers names no layer"),
        (["adversary.layers=['first,dense.9']"], r"adversary\.layers: dense\.9 is not one of"),
        (["adversary.layers=[all]"], r"adversary\.layers: all is not recorded by transcript"),
        (
            ["adversary.layers=['first, second']", "transcript.layers='first,last'"],
            r"first, second is not recorded by transcript\.layers=first,last; set transcript",
        ),
        (["attack=fusion"], r"attack\.fusion\.of=.* must name other attacks .*: there is none"),
        (["attack=[snapshot]", "adversary.vantage=final"], "attack=snapshot needs every round's"),
        (["privacy.aggregation=ckks"], "no single update; set adversary.vantage=aggregate"),
        (
            ["adversary.attribute=speaker", "adversary.vantage=aggregate"],
            r"adversary\.vantage=aggregate shows none: set adversary\.vantage=attributed",
        ),
    ],
)
def test_settings_that_cannot_run_are_rejected_by_their_key(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        check(*overrides)
    assert "\n" not in str(caught.value)


def test_fusion_needs_two_shadow_speakers_of_each_class():
    alone = [only(SHADOWS[0], "female")]  # a single speaker is male
    with pytest.raises(UserError, match="attack=fusion needs two shadow speakers of each class"):
        check("attack=[statistics,fusion]", "attack.fusion.of=[statistics]", shadows=alone)
    assert check("attack=statistics", shadows=alone) == ["female", "male"]
    assert check("attack=[correlation,snapshot,fusion]", shadows=[*alone, *SHADOWS[1:]])


def test_victims_and_shadow_corpora_are_compared():
    with pytest.raises(UserError, match="shadow: private shares 120 recording"):
        check(shadows=[PRIVATE])
    other = only(PRIVATE, "other")
    with pytest.raises(UserError, match=r"value\(s\) other, shadow speakers female and male"):
        check(private=other)
    # Re-identification needs no attribute.
    assert len(check("adversary.attribute=speaker", private=other)) == 16


def make_scores(tmp_path, clients=8, draws=4):
    """Return scores of two sides per draw, and write the truth: four speakers, two clients each."""
    rng = np.random.default_rng(0)
    speaker = np.arange(clients) // 2
    truth = {"federation": "f", "client": np.arange(clients), "fold": 0, "gender": "female"}
    table = pd.DataFrame(truth | {"speaker": [f"s{s}" for s in speaker]})
    table.loc[speaker % 2 == 1, "gender"] = "male"
    table.to_parquet(tmp_path / "truth.parquet")
    rows = [
        {"federation": "f", "client": c, "leaked": leaked, "draw": draw}
        | {f"score_{k}": 2.0 * (k == speaker[c]) + rng.normal() for k in range(4)}
        for leaked in ("1", "all")
        for c in range(clients)
        for draw in range(draws)
    ]
    return pd.DataFrame(rows)


def test_speakers_are_evaluated_across_rounds_and_shards(tmp_path):
    scores = make_scores(tmp_path)
    config = study("adversary.attribute=speaker", "adversary.bootstraps=20")
    found = _evaluate(config, scores, ["a/s0"], tmp_path)
    assert [(e["across"], e["leaked_updates"]) for e in found] == [
        (across, leaked) for across in ("rounds", "shards") for leaked in (1, "all")
    ]
    pairs, truth = score_pairs(scores), tmp_path / "truth.parquet"
    for across, entries in (("rounds", found[:2]), ("shards", found[2:])):
        for entry, expected in zip(
            entries, evaluate_reidentification(pairs, truth, across, 20, 0), strict=True
        ):
            assert entry == {"classes": [], "across": across, **expected}
            assert entry["auc"] > 0.6 and entry["eer"] < 0.45


def test_attributes_are_evaluated_once_with_their_classes(tmp_path):
    scores = make_scores(tmp_path).drop(columns=["score_2", "score_3"])
    config = study("adversary.bootstraps=20")
    found = _evaluate(config, scores, ["female", "male"], tmp_path)
    assert [(e["across"], e["leaked_updates"]) for e in found] == [(None, 1), (None, "all")]
    for entry in found:
        assert entry["classes"] == ["female", "male"] and entry["eer"] is None
        assert set(FIGURES) <= set(entry)


def test_the_audit_uses_the_noise_calibrated_to_all_folds(tmp_path, monkeypatch):
    config = study("privacy=local", "privacy.epsilon=8", "audit=canary", "rounds=6")
    audited = []
    monkeypatch.setattr(
        stage, "run_canaries", lambda protocol, *rest: audited.append(protocol.plan)
    )
    monkeypatch.setattr(audit, "evaluate_audit", lambda *given: {"violated": False})
    applied = private_federations(config, PRIVATE, tmp_path)
    stage.audit_run(config, applied[0].protocol, applied[0].dimension)
    assert {f.protocol.plan.noise_multiplier for f in applied} == {audited[0].noise_multiplier}
