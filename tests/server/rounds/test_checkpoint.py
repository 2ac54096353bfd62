import filecmp
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fedser.common.errors import UserError
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import RuntimeConfig
from fedser.server.federation.federation import Outcome
from fedser.server.privacy.composition import Releases
from fedser.server.rounds.bookkeeping import Recorder
from fedser.server.rounds.checkpoint import Checkpoint, State
from fedser.server.study.run import run_federations
from fedser.server.transcript.transcript import Transcript
from tests import examples

ROUNDS = 9


class Killed(BaseException):
    """No code handles this error, like a kill."""


def federation(folder, privacy=None, **changes):
    sampled = privacy is not None and privacy.vantage == "outsider"
    made = examples.federation(
        folder / "transcript",
        rounds=ROUNDS,
        privacy=privacy,
        exposures=(Releases(ROUNDS, 0.4) if sampled else Releases(6),),
        **changes,
    )
    return replace(made, checkpoint=folder / "checkpoint", checkpoint_every=2)


def run(federation):
    (outcome,) = run_federations([federation], RuntimeConfig("local"))
    return outcome


def run_until_killed(federation, server_round, monkeypatch):
    record = Recorder.record

    def record_or_die(self, number, *rest):
        record(self, number, *rest)
        if number == server_round:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record", record_or_die)
        with pytest.raises(Killed):
            run(federation)


def figures(outcome):
    rows = [{**vars(row), "seconds": 0.0} for row in outcome.rounds]
    return json.dumps([rows, outcome.best_round, outcome.releases, outcome.epsilon])


@pytest.mark.parametrize("killed_in", [1, 5, 6, 9])
def test_a_resumed_run_equals_an_uninterrupted_run(killed_in, tmp_path, monkeypatch):
    privacy = PrivacyConfig()
    whole = run(federation(tmp_path / "whole", privacy))
    run_until_killed(federation(tmp_path / "parts", privacy), killed_in, monkeypatch)
    resumed = run(federation(tmp_path / "parts", privacy))
    assert figures(resumed) == figures(whole)
    for parameter, array in whole.best_arrays.items():
        assert np.array_equal(resumed.best_arrays[parameter], array)
    files = sorted(path.name for path in (tmp_path / "whole" / "transcript").iterdir())
    same, different, missing = filecmp.cmpfiles(
        tmp_path / "whole" / "transcript", tmp_path / "parts" / "transcript", files, shallow=False
    )
    assert (same, different, missing) == (files, [], [])
    models = dict(Transcript(tmp_path / "parts" / "transcript").global_models())
    assert list(models) == list(range(1, ROUNDS + 2))
    assert sorted(p.name for p in (tmp_path / "parts" / "transcript").iterdir()) == files


def test_a_half_written_file_is_removed_on_resume(tmp_path, monkeypatch):
    run_until_killed(federation(tmp_path), 5, monkeypatch)
    leftover = tmp_path / "transcript" / ".tmpaB3xY9"
    leftover.write_bytes(b"half a file")
    run(federation(tmp_path))
    assert not leftover.exists()


def files_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "transcript").iterdir()}


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    whole = run(federation(tmp_path, examples.CENTRAL))
    before = files_of(tmp_path)
    assert Transcript(tmp_path / "transcript").num_models == ROUNDS + 1

    def fail(*_):
        raise AssertionError("a round was run")

    monkeypatch.setattr(Recorder, "record", fail)
    assert figures(run(federation(tmp_path, examples.CENTRAL))) == figures(whole)
    assert files_of(tmp_path) == before  # the final model is not there twice


def test_a_run_that_spent_its_budget_stays_stopped(tmp_path):
    limited = replace(examples.LOCAL, stop_at_epsilon=5.0)
    first = run(federation(tmp_path, limited))
    before = files_of(tmp_path)
    again = run(federation(tmp_path, limited))
    assert 0 < len(first.rounds) < ROUNDS
    assert figures(again) == figures(first)
    assert files_of(tmp_path) == before
    assert Transcript(tmp_path / "transcript").num_models == len(first.rounds) + 1


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("name", ["LOCAL", "CENTRAL", "UDP", "MATRIX"])
def test_repeated_rounds_with_new_noise_are_counted_twice(
    name, reproducible, tmp_path, monkeypatch
):
    privacy = replace(getattr(examples, name), reproducible_noise=reproducible)
    run_until_killed(federation(tmp_path, privacy), 5, monkeypatch)  # saved after round 4
    run_until_killed(federation(tmp_path, privacy), 5, monkeypatch)  # round 5 for the second time
    resumed = run(federation(tmp_path, privacy))
    assert [row.round for row in resumed.rounds] == list(range(1, ROUNDS + 1))
    journal = (tmp_path / "checkpoint" / "journal.jsonl").read_text().splitlines()
    announced = [client for line in journal for client in json.loads(line)[1]]
    assert len(journal) == ROUNDS + 2
    assert resumed.releases == {c: announced.count(c) for c in set(announced)}
    assert len(announced) == sum(resumed.releases.values())
    if name == "CENTRAL":
        plan = resumed.federation.protocol.plan
        assert resumed.epsilon == plan.epsilon(Releases(ROUNDS + 2, plan.sampling_rate))


def attempts(folder):
    """The cohort of each attempt of a round, in their order."""
    return [json.loads(line)[1] for line in (folder / "checkpoint/journal.jsonl").open()]


def test_no_client_has_two_turns_within_the_bands(tmp_path, monkeypatch):
    made = federation(tmp_path, examples.MATRIX, fraction=0.25)
    for killed_in in (3, 4, 7, 8):
        run_until_killed(made, killed_in, monkeypatch)
    outcome, cohorts = run(made), attempts(tmp_path)
    assert made.protocol.plan.bands == 4 and len(cohorts) == ROUNDS + 6
    turns = {client: [t for t, own in enumerate(cohorts) if client in own] for client in range(8)}
    assert all(np.all(np.diff(own) == 4) for own in turns.values())
    assert outcome.releases == {client: len(own) for client, own in turns.items()}
    assert outcome.epsilon == pytest.approx(made.protocol.plan.epsilon(Releases(4)))


@pytest.mark.parametrize("left", ["nothing", "an old state"])
def test_a_run_without_its_noise_is_not_resumed(left, tmp_path, monkeypatch):
    made = federation(tmp_path, examples.MATRIX)
    run_until_killed(made, 3, monkeypatch)
    path = tmp_path / "checkpoint" / "noise.safetensors"
    old = path.read_bytes()
    run_until_killed(made, 7, monkeypatch)
    path.unlink() if left == "nothing" else path.write_bytes(old)
    with pytest.raises(UserError, match="the state of its noise is missing or does not fit"):
        run(made)


def test_a_run_of_one_round_has_no_noise_to_keep(tmp_path, monkeypatch):
    made = federation(tmp_path, examples.MATRIX, fraction=0.25)
    plan = replace(made.protocol.plan, num_rounds=1)
    made = replace(made, protocol=replace(made.protocol, plan=plan), checkpoint_every=1)
    first = run(made)
    assert figures(run(made)) == figures(first)
    assert not (tmp_path / "checkpoint" / "noise.safetensors").exists()


def test_the_noise_of_another_run_is_not_used(tmp_path, monkeypatch):
    made = federation(tmp_path, examples.MATRIX)
    run_until_killed(made, 3, monkeypatch)
    for name in ("state.safetensors", "journal.jsonl"):
        (tmp_path / "checkpoint" / name).unlink()
    with pytest.raises(UserError, match="the state of its noise is missing or does not fit"):
        run(made)


def test_repeated_rounds_without_noise_are_counted_once(tmp_path, monkeypatch):
    run_until_killed(federation(tmp_path, PrivacyConfig()), 5, monkeypatch)
    resumed = run(federation(tmp_path, PrivacyConfig()))
    assert sum(resumed.releases.values()) == ROUNDS * 3  # 40 % of eight clients


def saved(tmp_path):
    made = federation(tmp_path)
    state = State({"w": np.ones(3, np.float32)}, float("nan"), [[0, 2], []], {"updates": 1}, 0)
    checkpoint = Checkpoint(tmp_path / "checkpoint", made.digest)
    checkpoint.save(state, Outcome(made))
    return made, checkpoint, state


def test_a_saved_state_is_read_back(tmp_path):
    made, checkpoint, state = saved(tmp_path)
    found = checkpoint.load(Outcome(made))
    assert np.array_equal(found.arrays["w"], state.arrays["w"])
    assert (found.cohorts, found.chunks) == (state.cohorts, state.chunks)
    assert Checkpoint(tmp_path / "empty", made.digest).load(Outcome(made)) is None
    files = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert files == ["state.safetensors"]


def test_a_truncated_checkpoint_is_rejected(tmp_path):
    made, checkpoint, _ = saved(tmp_path)
    path = tmp_path / "checkpoint" / "state.safetensors"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"state\.safetensors: damaged checkpoint"):
            checkpoint.load(Outcome(made))


@pytest.mark.parametrize(
    "texts",
    [
        None,
        {"books": "{}"},
        {"books": "[]", "rounds": "[]"},
        {"books": "{", "rounds": "[]"},
        {"books": '{"format": 2}', "rounds": "[]"},
    ],
)
def test_a_foreign_file_is_rejected(texts, tmp_path):
    made, checkpoint, _ = saved(tmp_path)
    path = tmp_path / "checkpoint" / "state.safetensors"
    save_file({"x": np.zeros(2)}, path, texts)
    with pytest.raises(UserError, match=r"(damaged checkpoint|another configuration).*anew$"):
        checkpoint.load(Outcome(made))


@pytest.mark.parametrize(
    "name", ["best_round", "cohorts", "rounds", "names", "chunks", "announced"]
)
def test_a_checkpoint_without_an_entry_is_rejected(name, tmp_path):
    made, checkpoint, _ = saved(tmp_path)
    path = tmp_path / "checkpoint" / "state.safetensors"
    with safe_open(path, framework="numpy") as file:
        texts = file.metadata()
    header = json.loads(texts["books"])
    entries = texts if name in texts else header
    del entries[name]
    save_file({"model.w": np.ones(3)}, path, texts | {"books": json.dumps(header)})
    with pytest.raises(UserError, match="damaged checkpoint; start the run anew"):
        checkpoint.load(Outcome(made))


def test_a_checkpoint_of_another_federation_is_rejected(tmp_path):
    saved(tmp_path)
    other = federation(tmp_path, examples.UDP)
    with pytest.raises(UserError, match="made with another configuration"):
        run(other)


def test_an_incomplete_line_of_the_journal_is_dropped(tmp_path):
    made, checkpoint, _ = saved(tmp_path)
    checkpoint.announce(3, [1, 3], True)
    with (tmp_path / "checkpoint" / "journal.jsonl").open("a") as file:
        file.write("[4, [4, 5")
    again, last = (Checkpoint(tmp_path / "checkpoint", made.digest) for _ in range(2))
    again.load(Outcome(made))
    again.announce(4, [6], False)
    last.load(Outcome(made))
    assert again.announced == last.announced == [(3, [1, 3]), (4, [6])]


def test_a_damaged_journal_is_rejected(tmp_path):
    made, checkpoint, state = saved(tmp_path)
    checkpoint.announce(3, [1, 3], False)
    checkpoint.save(replace(state, announced=1), Outcome(made))
    journal = tmp_path / "checkpoint" / "journal.jsonl"
    journal.unlink()
    match = r"journal\.jsonl: damaged journal; start the run anew"
    with pytest.raises(UserError, match=match):
        run(made)
    for text in ("what\n", "7\n", "[1]\n", '["a", [2]]\n', "[1, 2]\n"):
        journal.write_text(text)
        with pytest.raises(UserError, match=match):
            run(made)


def test_a_journal_without_its_checkpoint_is_rejected(tmp_path, monkeypatch):
    run_until_killed(federation(tmp_path), 5, monkeypatch)
    (tmp_path / "checkpoint" / "state.safetensors").unlink()
    with pytest.raises(UserError, match=r"state\.safetensors: damaged checkpoint"):
        run(federation(tmp_path))


def test_a_transcript_with_missing_files_is_not_resumed(tmp_path, monkeypatch):
    run_until_killed(federation(tmp_path), 5, monkeypatch)
    (tmp_path / "transcript" / "updates-00001.safetensors").unlink()
    with pytest.raises(UserError, match="files of the transcript are missing"):
        run(federation(tmp_path))
