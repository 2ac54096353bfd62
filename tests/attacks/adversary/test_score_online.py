"""Values that are read during training give the same scores as stored updates."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedser.attacks.adversary import score_online as online
from fedser.attacks.adversary.fit import FittedAttack
from fedser.attacks.adversary.prepare import LayerAttacks
from fedser.attacks.adversary.score import score_private
from fedser.attacks.adversary.score_online import OnlineReader, score_stored_values
from fedser.attacks.adversary.tap import View
from fedser.client.app import app as client_app
from fedser.common.errors import UserError
from fedser.conf.algorithm_keys import TranscriptConfig
from fedser.conf.build import compose
from fedser.conf.schema import AdversaryConfig
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.study.run import study_config
from fedser.server.transcript.transcript import RecordedUpdates, Transcript
from fedser.server.transcript.writer import TranscriptWriter
from fedser.stages.check import check_store
from tests.examples import CENTRAL, SHARED, federation

LAST = ["dense.2.weight", "dense.2.bias"]
VIEW = View("attributed", LAST, True)
NUMBERS = {"bent/last": "as made here"}
NO_GROUPS = np.zeros(0, dtype=np.int64)


class Bent:
    """Reads three numbers of an update, and is linear in none of them."""

    name, max_examples = "bent", None

    def features(self, gradients):
        assert list(gradients) == LAST and len(gradients[LAST[0]]) > 0
        return gradients[LAST[1]][:, :3] ** 3

    def score(self, features):
        return np.stack([np.sin(features[:, 0]), np.log1p(features[:, 1] ** 2)], axis=1)


ATTACKS = LayerAttacks("last", VIEW, [FittedAttack(Bent(), {})], NO_GROUPS, [], [])


def run(made, folder):
    return federate(LocalGrid(client_app), made, folder, "cpu")


def online_of(made, combination="statistics", numbers=NUMBERS):
    transcript = replace(made.protocol.transcript, store="features")
    made = replace(made, protocol=replace(made.protocol, transcript=transcript))
    meta = made.transcript_meta(list(SHARED))
    reader = OnlineReader(numbers, meta, {"bent/last": (Bent(), LAST)}, combination)
    return replace(made, reader=reader)


@pytest.mark.parametrize("block", [1, 3, 16])
@pytest.mark.parametrize("combination", ["statistics", "log_odds"])
def test_stored_values_give_the_scores_of_updates(combination, block, tmp_path, monkeypatch):
    monkeypatch.setattr(online, "BLOCK", block)
    made = federation(tmp_path / "whole" / "f", rounds=5)
    run(made, tmp_path)
    kept = online_of(replace(made, folder=tmp_path / "few" / "f"), combination)
    run(kept, tmp_path)
    for attribute in ("gender", "speaker"):
        config = AdversaryConfig(
            attribute=attribute, leaked_updates=[1, 2, "all"], draws=3, combination=combination
        )
        expected = score_private(made.folder, ATTACKS, config, 0).victims
        found = score_stored_values(kept.folder, ATTACKS, config, 0).victims
        assert list(found) == list(expected) == ["bent"]
        pd.testing.assert_frame_equal(found["bent"], expected["bent"], rtol=1e-5, atol=1e-7)


def test_neither_updates_nor_models_are_stored(tmp_path):
    made = online_of(federation(tmp_path / "f", rounds=6, fraction=1.0))
    run(made, tmp_path)
    stored = Transcript(tmp_path / "f")
    assert (stored.meta.recorded, stored.meta.numbers) == (["bent/last"], NUMBERS)
    assert stored.num_models == 0 and len(stored.num_examples) == 48
    (chunk,) = stored
    assert list(chunk.arrays) == ["bent/last"] and chunk.arrays["bent/last"].shape == (48, 3)
    size = sum(path.stat().st_size for path in (tmp_path / "f").glob("*.safetensors"))
    assert size < 48 * 48 + 1000


def test_rounds_without_updates_are_not_read(tmp_path):
    silent = replace(CENTRAL, epsilon=None, noise_multiplier=1.0)
    made = online_of(federation(tmp_path / "f", rounds=12, fraction=0.1, privacy=silent))
    outcome = run(made, tmp_path)
    expected = [row.round for row in outcome.rounds for _ in range(row.clients)]
    assert 0 in [row.clients for row in outcome.rounds]
    (chunk,) = Transcript(tmp_path / "f")
    assert chunk.round.tolist() == expected


def test_an_error_while_reading_ends_the_run(tmp_path):
    made = online_of(federation(tmp_path / "f", rounds=5))
    broken = replace(made.reader, attacks={"bent/last": (Bent(), ["dense.9.weight"])})
    with pytest.raises(KeyError, match=r"dense\.9"):
        run(replace(made, reader=broken), tmp_path)


def test_other_features_make_another_federation(tmp_path):
    made = federation(tmp_path / "f")
    read = online_of(made)
    assert online_of(made).digest == read.digest
    assert online_of(made, numbers={"bent/last": "made otherwise"}).digest != read.digest


def test_a_run_without_a_reader_is_rejected(tmp_path):
    made = federation(tmp_path / "f", transcript=TranscriptConfig(store="features"))
    with pytest.raises(UserError, match=r"transcript\.store=features: no attack reads"):
        run(made, tmp_path)
    assert not (tmp_path / "f").exists()


def test_an_empty_transcript_is_rejected(tmp_path):
    made = online_of(federation(tmp_path / "f", rounds=1))
    nothing = RecordedUpdates(*[np.zeros(0, dtype=np.int64)] * 3, {})
    meta = made.transcript_meta(list(SHARED))
    with TranscriptWriter(made.folder, meta, {}, made.reader) as writer:
        writer.record(1, {}, [nothing])
    with pytest.raises(UserError, match="holds no update: nothing to attack"):
        score_stored_values(tmp_path / "f", ATTACKS, AdversaryConfig(), 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=train"], r"transcript\.store=features stores only the features"),
        (["shadow=[]"], r"set stage=all, shadow and attack"),
        (["adversary.vantage=aggregate"], r"adversary\.vantage=aggregate looks at models"),
        (["adversary.vantage=final"], r"adversary\.vantage=final looks at models"),
        (["adversary.combination=updates"], r"adversary\.combination=updates takes means"),
        (["attack=[correlation,snapshot]"], "attack=snapshot reads every model and update again"),
        (["attack=[cnn]"], r"set adversary\.combination=log_odds"),
    ],
)
def test_settings_that_need_updates_are_rejected(overrides, message):
    config = study_config(compose([*overrides, "transcript.store=features"]))
    attacking = config.stage != "train" and bool(config.shadow)
    with pytest.raises(UserError, match=message) as caught:
        check_store(config, attacking)
    assert "\n" not in str(caught.value)
    check_store(replace(config, transcript=TranscriptConfig()), attacking)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["attack=[cnn]", "adversary.combination=log_odds"],
        ["attack=[statistics,centroid,fusion]", "attack.fusion.of=[statistics,centroid]"],
        ["adversary.attribute=speaker", "keep_transcript=false"],
    ],
)
def test_settings_that_need_no_updates_are_allowed(overrides):
    check_store(study_config(compose([*overrides, "transcript.store=features"])), True)


def test_an_unknown_store_is_rejected():
    with pytest.raises(UserError, match=r"transcript\.store=none is not one of updates, features"):
        study_config(compose(["transcript.store=none"]))
