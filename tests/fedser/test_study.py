"""The command line end to end, on a small synthetic corpus in this process."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from safetensors.numpy import load_file

from fedser.client.privacy import local as privacy
from fedser.results.files import read_results
from fedser.server.rounds.bookkeeping import Recorder
from tests.studies import leave_undrawn, run_main

SMALL = [
    "corpus.speakers=10",
    "corpus.utterances_per_speaker=8",
    "shadow=[{corpus: synthetic_de, speakers: 10, utterances_per_speaker: 8}]",
    "runtime=local",
    "rounds=4",
    "cohort_fraction=0.5",
    "folds=[0,1]",
    "adversary.shadow_federations=2",
    "adversary.bootstraps=50",
]
SHADOW_OF_ITSELF = "{corpus: synthetic, speakers: 10, utterances_per_speaker: 8}"


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("outputs/*/*")
    return run


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> Path:
    """The folder of a study without any disturbance."""
    folder = tmp_path_factory.mktemp("whole")
    run = f"hydra.run.dir={folder / 'run'}"
    run_main(folder, *SMALL, "seed=5", f"cache={cache}", run, draw=False)
    return folder / "run"


def test_a_study_writes_all_its_files(fedser, tmp_path):
    status, printed = fedser(*SMALL, "privacy=udp", "privacy.epsilon=50", "seed=3")
    assert status == 0
    run = only_run(tmp_path)
    assert f"report: {run}/report.html" in printed
    results = read_results(run / "results.json")  # validates against the schema
    assert results["seed"] == 3 and results["clients"] == results["speakers"] == 10
    assert results["privacy"]["nominal_epsilon"] == 50
    assert results["privacy"]["epsilon"] > 50
    assert {a["name"] for a in results["attacks"]} == {"statistics", "correlation"}
    assert [a["leaked_updates"] for a in results["attacks"][:6]] == [1, 3, 5, 10, 20, "all"]
    assert all(a["shadow_corpora"] == ["synthetic_de"] for a in results["attacks"])
    for fold in results["utility"]["per_fold"]:
        confusion = np.array(fold["confusion"])
        assert confusion.sum() == 8 * len(fold["test_speakers"])
        assert confusion.trace() / confusion.sum() == pytest.approx(fold["accuracy"])
    rounds = pd.read_parquet(run / "rounds.parquet")
    assert len(rounds) == 2 * 4 and set(rounds["federation"]) == {"private-fold0", "private-fold1"}
    assert (
        rounds.groupby("federation")["epsilon"].apply(lambda e: e.is_monotonic_increasing)
    ).all()
    model = load_file(run / "model.safetensors")
    assert model["fold1.dense.0.weight"].shape == (256, 988)
    assert sorted(p.name for p in (run / "transcript").iterdir()) == [
        "private-fold0",
        "private-fold1",
    ]
    assert len(list((run / "figures").glob("*.png"))) >= 3
    assert (run / ".hydra" / "overrides.yaml").exists()
    assert not [p for p in run.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt")]


def test_model_and_attacks_take_any_number_of_features(fedser, undrawn, tmp_path):
    few = [key for key in SMALL if not key.startswith(("corpus.utterances", "shadow=", "folds="))]
    few += ["corpus.utterances_per_speaker=4", "folds=[0]"]
    few += ["shadow=[{corpus: synthetic_de, speakers: 10, utterances_per_speaker: 4}]"]
    assert fedser(*few, "features=egemaps", "attack=[correlation,snapshot]")[0] == 0
    run = only_run(tmp_path)
    model = load_file(run / "model.safetensors")
    assert model["fold0.dense.0.weight"].shape == (256, 88)
    results = read_results(run / "results.json")
    assert np.sum(results["utility"]["per_fold"][0]["confusion"]) == 2 * 4
    assert {a["name"] for a in results["attacks"]} == {"correlation", "snapshot"}
    assert all(0 <= a["auc"] <= 1 and a["victims"] == 6 for a in results["attacks"])


FRAMES = [
    *(key for key in SMALL if key != "folds=[0,1]"),
    "folds=[0]",
    "features=logmel",
    "features.frames=60",
    "model=attention",
    "model.frame_units=[16,8]",
    "adversary.leaked_updates=[1]",
]


def test_a_model_of_frames_is_trained_and_attacked(fedser, undrawn, tmp_path):
    layers = ["transcript.layers=all", "adversary.layers=[first,'dense.2,dense.3']"]
    assert fedser(*FRAMES, *layers, "attack=[statistics,correlation,snapshot]")[0] == 0
    run = only_run(tmp_path)
    model = load_file(run / "model.safetensors")
    assert {name.removeprefix("fold0."): array.shape for name, array in model.items()} == {
        "dense.0.weight": (16, 40),
        "dense.0.bias": (16,),
        "dense.1.weight": (8, 16),
        "dense.1.bias": (8,),
        "dense.2.weight": (64, 8),
        "dense.2.bias": (64,),
        "dense.3.weight": (1, 64),
        "dense.4.weight": (128, 8),
        "dense.4.bias": (128,),
        "dense.5.weight": (4, 128),
        "dense.5.bias": (4,),
    }
    results = read_results(run / "results.json")
    assert results["config"]["model"]["_target_"] == "fedser.client.models.attention.Attention"
    assert np.sum(results["utility"]["per_fold"][0]["confusion"]) == 2 * 8
    assert [(a["layer"], a["name"]) for a in results["attacks"]] == [
        ("first", "statistics"),
        ("first", "correlation"),
        ("first", "snapshot"),
        ("dense.2,dense.3", "statistics"),
        ("dense.2,dense.3", "correlation"),
    ]
    assert all(0 <= a["auc"] <= 1 and a["victims"] == 6 for a in results["attacks"])


def test_frames_under_noise_are_audited_and_attacked_online(fedser, undrawn, tmp_path):
    noise = ["privacy=local", "privacy.noise_multiplier=1", "adversary.aware=true"]
    audit = ["audit=canary", "audit.canaries=100", "audit.releases=1", "audit.magnitudes=[1]"]
    assert fedser(*FRAMES, *noise, *audit, "transcript.store=features")[0] == 0
    results = read_results(only_run(tmp_path) / "results.json")
    assert results["privacy"]["epsilon"] > 0 and not results["audit"]["violated"]
    (check,) = results["audit"]["checks"]
    assert check["epsilon_plug_in"] > 0 and check["canaries"] == 100
    assert {a["name"] for a in results["attacks"]} == {"statistics", "correlation"}


def test_transcripts_contain_no_speaker_and_no_attribute(whole):
    files = [path for path in (whole / "transcript").rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert b"male" not in content and b"s000" not in content and b"synthetic" not in content


def test_a_stage_repeats_only_its_own_part(fedser, undrawn, tmp_path):
    assert fedser(*SMALL, "stage=train")[0] == 0
    run = only_run(tmp_path)
    assert read_results(run / "results.json")["attacks"] == []
    trained = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    hydra = (run / ".hydra" / "overrides.yaml").read_text()

    assert fedser("stage=attack", f"run={run}", "attack=statistics")[0] == 0
    attacked = read_results(run / "results.json")
    assert {a["name"] for a in attacked["attacks"]} == {"statistics"}
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == trained
    assert (run / ".hydra" / "overrides.yaml").read_text() == hydra
    assert only_run(tmp_path) == run

    status, printed = fedser("stage=attack", f"run={run}", "shadow=[]")
    assert status == 2 and "stage=attack needs at least one corpus in shadow" in printed
    assert {a["name"] for a in read_results(run / "results.json")["attacks"]} == {"statistics"}

    (run / "report.html").unlink()
    before = (run / "results.json").read_text()
    assert fedser("stage=report", f"run={run}")[0] == 0
    assert (run / "report.html").exists()
    assert json.loads((run / "results.json").read_text()) == json.loads(before)


def attacks_of(run: Path) -> list[dict]:
    return read_results(run / "results.json")["attacks"]


def test_attacks_take_layers_vantages_and_combinations(fedser, tmp_path, monkeypatch):
    run = tmp_path / "run"
    layers = ["adversary.layers=[first,last,all]", "adversary.leaked_updates=[1,all]"]
    first = [*SMALL, "transcript.layers=all", "attack=[statistics,fusion]", *layers]
    assert fedser(*first, "attack.fusion.of=[statistics]", f"hydra.run.dir={run}")[0] == 0
    trained = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    kinds = [(a["layer"], a["name"], a["leaked_updates"]) for a in attacks_of(run)]
    assert kinds == [
        (layer, name, leaked)
        for layer in ("first", "last", "all")
        for name in ("statistics", "fusion")
        for leaked in (1, "all")
    ]
    about = {(a["vantage"], a["selection"], a["combination"]) for a in attacks_of(run)}
    assert about == {("attributed", "random", "statistics")}
    assert len({a["auc"] for a in attacks_of(run) if a["name"] == "statistics"}) > 2
    page = (run / "report.html").read_text()
    assert "statistics, first" in page and "fusion, all" in page

    leave_undrawn(monkeypatch)
    again = ["stage=attack", f"run={run}", "adversary.layers=[first]"]
    changes = {
        "adversary.vantage=aggregate": ("aggregate", "random", "statistics"),
        "adversary.vantage=final": ("final", "random", "statistics"),
        "adversary.combination=updates": ("attributed", "random", "updates"),
        "adversary.combination=log_odds": ("attributed", "random", "log_odds"),
        "adversary.selection=latest": ("attributed", "latest", "statistics"),
    }
    found = {}
    for change, about in changes.items():
        assert fedser(*again, change)[0] == 0, change
        for record in attacks_of(run):
            assert (record["vantage"], record["selection"], record["combination"]) == about
        found[change] = [a["auc"] for a in attacks_of(run) if a["name"] == "statistics"]
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == trained
    # The final model is the same for every client, so the attack can only guess.
    assert found["adversary.vantage=final"] == [0.5, 0.5]
    assert found["adversary.vantage=aggregate"] != found["adversary.combination=updates"]
    # With a single leaked update there is nothing to combine: both ways give one score.
    ones = {round(found[f"adversary.combination={c}"][0], 9) for c in ("updates", "log_odds")}
    assert len(ones) == 1


def test_speakers_are_reidentified(fedser, tmp_path):
    changes = ["adversary.attribute=speaker", "attack=statistics", "corpus.shards=2"]
    leaked = "adversary.leaked_updates=[1,all]"
    assert fedser(*SMALL, *changes, leaked, "cohort_fraction=1.0")[0] == 0
    run = only_run(tmp_path)
    kinds = [(a["across"], a["leaked_updates"]) for a in attacks_of(run)]
    assert kinds == [(across, n) for across in ("rounds", "shards") for n in (1, "all")]
    for record in attacks_of(run):
        assert record["classes"] == [] and record["uar_calibrated"] is None
        assert 0 <= record["eer"] <= 1 and record["ci95_eer"][0] <= record["ci95_eer"][1]
        assert record["speakers"] == 10 and record["victims"] == 20
    assert "EER" in (run / "report.html").read_text()


def test_transcripts_are_removed_after_the_attack_on_request(fedser, undrawn, cache, tmp_path):
    own = "seed=9"  # no other test uses its shadow federations
    assert fedser(*SMALL, own, "keep_transcript=false", "stage=train")[0] == 0
    run = only_run(tmp_path)
    assert (run / "transcript").exists()
    assert fedser("stage=attack", f"run={run}", "keep_transcript=true")[0] == 0
    first = attacks_of(run)
    before = {path for path in (cache / "shadow").iterdir() if path.suffix != ".part"}
    assert (run / "transcript").exists()
    assert fedser("stage=attack", f"run={run}", "keep_shadows=false")[0] == 0
    assert first and attacks_of(run) == first
    assert not (run / "transcript").exists()
    assert len(before - set((cache / "shadow").iterdir())) == 2


def test_one_seed_reproduces_a_study(whole, fedser, undrawn, tmp_path):
    again = tmp_path / "again"
    assert fedser(*SMALL, "seed=5", f"hydra.run.dir={again}")[0] == 0
    found = []
    for run in (whole, again):
        results = read_results(run / "results.json")
        found.append((results["utility"], results["attacks"], load_file(run / "model.safetensors")))
    assert found[0][:2] == found[1][:2]
    assert all(np.array_equal(found[0][2][n], found[1][2][n]) for n in found[0][2])


def test_a_sweep_leaves_one_table_and_one_figure(fedser, tmp_path):
    status, printed = fedser(
        *("-m", *SMALL, "attack=statistics", "privacy=udp", "privacy.epsilon=5,50"),
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )
    assert status == 0 and "sweep.csv" in printed
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert table["nominal_epsilon"].tolist() == [5, 50]
    for row, name in enumerate(("0", "1")):
        results = read_results(tmp_path / "sweep" / name / "results.json")
        assert table["uar"][row] == pytest.approx(results["utility"]["uar"])
        assert table["epsilon"][row] == pytest.approx(results["privacy"]["epsilon"])
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 5000


def test_a_failed_run_is_named_and_the_sweep_continues(fedser, undrawn, tmp_path):
    sweep = tmp_path / "sweep"
    status, printed = fedser(
        "-m", *SMALL, "stage=train", "rounds=0,2", f"hydra.sweep.dir={sweep}", "folds=[0]"
    )
    assert status == 2 and "1 run(s) failed: 0" in printed
    table = pd.read_csv(sweep / "sweep.csv")
    assert table["problem"][0] == "rounds=0 must be at least 1"
    assert table["uar"].notna().tolist() == [False, True]
    assert table["rounds"].tolist() == [0, 2] and "runtime" not in table


class Killed(BaseException):
    """An exception that no code handles, like a kill."""


@pytest.mark.parametrize("fold", [0, 1])
def test_an_interrupted_study_is_resumed_with_equal_results(
    fold, whole, fedser, undrawn, tmp_path, monkeypatch
):
    runs = (whole, tmp_path / "parts")
    record = Recorder.record

    def record_or_die(self, number, *rest):
        record(self, number, *rest)
        if (self.outcome.federation.fold, number) == (fold, 3):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record", record_or_die)
        with pytest.raises(Killed):
            fedser(*SMALL, "seed=5", "checkpoint_every=1", f"hydra.run.dir={tmp_path / 'parts'}")
    assert not (tmp_path / "parts" / "training.json").exists()
    assert fedser(f"resume={tmp_path / 'parts'}")[0] == 0
    expected, found = (read_results(run / "results.json") for run in runs)
    assert [found[k] for k in ("utility", "privacy", "attacks")] == [
        expected[k] for k in ("utility", "privacy", "attacks")
    ]
    ledgers = [pd.read_parquet(run / "ledger.parquet") for run in runs]
    pd.testing.assert_frame_equal(*ledgers)
    truth = pd.read_parquet(whole / "truth.parquet").groupby("federation").size()
    rounds = pd.read_parquet(whole / "rounds.parquet")
    for federation, own in ledgers[0].groupby("federation"):
        assert set(own["client"]) <= set(range(truth[federation]))
        clients = rounds.loc[rounds["federation"] == federation, "clients"]
        assert own["releases"].sum() == clients.sum()
    rows = [pd.read_parquet(run / "rounds.parquet").drop(columns="seconds") for run in runs]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    assert not (tmp_path / "parts" / "checkpoint").exists()


ONLINE = [
    *SMALL,
    "transcript.dtype=float32",
    "attack=[statistics,correlation,centroid,fusion]",
    "attack.fusion.of=[statistics,correlation]",
    "attack.correlation.pairs=4000",
    "adversary.leaked_updates=[1,all]",
]


def check_same_figures(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        rounded = {k: pytest.approx(v, abs=1e-4) for k, v in other.items() if type(v) is float}
        assert {**one, "roc": None} == {**other, "roc": None, **rounded}


def test_online_attacks_give_the_same_results(fedser, undrawn, tmp_path, monkeypatch):
    whole, few, parts = (tmp_path / name for name in ("whole", "few", "parts"))
    online = [*ONLINE, "transcript.store=features", "checkpoint_every=1"]
    assert fedser(*ONLINE, f"hydra.run.dir={whole}")[0] == 0
    assert fedser(*online, f"hydra.run.dir={few}")[0] == 0
    expected = attacks_of(whole)
    assert len({a["auc"] for a in expected}) > 2
    check_same_figures(attacks_of(few), expected)
    kept = list((few / "transcript").glob("*/*.safetensors"))
    releases = int(pd.read_parquet(few / "ledger.parquet")["releases"].sum())
    assert sum(path.stat().st_size for path in kept) < 150 * releases + 1000 * len(kept)

    # The kept numbers allow the same attacks again, and no others.
    again = ["stage=attack", f"run={few}"]
    other = ["attack=[correlation,centroid,fusion]", "attack.fusion.of=[correlation,centroid]"]
    assert fedser(*again, *other, "adversary.leaked_updates=[all]")[0] == 0
    some = [a for a in attacks_of(few) if a["name"] != "fusion"]
    names = {a["name"] for a in some}
    assert names == {"correlation", "centroid"}
    at_all = [a for a in expected if a["leaked_updates"] == "all"]
    check_same_figures(some, [a for a in at_all if a["name"] in names])
    refused = {
        "attack.correlation.pairs=7": "kept no features of correlation/first as set now",
        "adversary.combination=log_odds": "kept no features of statistics/first, correlation/first",
        "adversary.combination=updates": "adversary.combination=updates takes means of updates",
    }
    for change, message in refused.items():
        status, printed = fedser(*again, change)
        assert status == 2 and message in printed, change

    record = Recorder.record

    def record_or_die(self, number, *rest):
        record(self, number, *rest)
        if (self.outcome.federation.name, number) == ("private-fold1", 3):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record", record_or_die)
        with pytest.raises(Killed):
            fedser(*online, f"hydra.run.dir={parts}")
    status, printed = fedser(f"resume={parts}", "attack.correlation.pairs=7")
    assert status == 2 and "made with another configuration" in printed
    assert fedser(f"resume={parts}", "keep_transcript=false")[0] == 0
    check_same_figures(attacks_of(parts), expected)
    assert not (parts / "transcript").exists()


def test_a_stopped_run_keeps_its_files_and_says_how_to_go_on(
    fedser, undrawn, cache, tmp_path, monkeypatch
):
    run, replace_file, checkpoints = tmp_path / "run", os.replace, []

    def full(source, target):
        if Path(target).name == "state.safetensors":
            checkpoints.append(target)
            if len(checkpoints) > 4:
                raise OSError(28, "No space left on device")
        replace_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        status, printed = fedser(*SMALL, "stage=train", "folds=[0]", f"hydra.run.dir={run}")
    assert status == 4
    (line,) = [line for line in printed.splitlines() if line.startswith("fedser: ")]
    assert "No space left on device" in line
    assert line.endswith(f"fedser resume={run} cache={cache}")
    assert (run / "checkpoint" / "private-fold0" / "state.safetensors").exists()
    assert fedser(f"resume={run}")[0] == 0
    assert pd.read_parquet(run / "rounds.parquet")["round"].tolist() == [1, 2, 3, 4]


def test_checkpoints_left_by_a_kill_are_removed(fedser, undrawn, tmp_path):
    run = tmp_path / "run"
    assert fedser(*SMALL, "stage=train", "folds=[0]", f"hydra.run.dir={run}")[0] == 0
    (run / "checkpoint" / "private-fold0").mkdir(parents=True)
    assert fedser(f"resume={run}")[0] == 0
    assert not (run / "checkpoint").exists()


def test_resuming_a_finished_run_only_writes_the_report(fedser, undrawn, tmp_path):
    run = tmp_path / "run"
    assert fedser(*SMALL, "stage=train", f"hydra.run.dir={run}")[0] == 0
    trained = (run / "training.json").read_bytes()
    assert fedser(f"resume={run}")[0] == 0
    assert (run / "training.json").read_bytes() == trained


@pytest.mark.parametrize("mechanism", ["central", "local", "dp_sgd"])
def test_an_epsilon_of_zero_is_a_result(fedser, tmp_path, mechanism):
    noise = ["privacy.noise_multiplier=1e9,4e9"]
    small = ["rounds=2", "folds=[0]", "shadow=[]", "cohort_fraction=0.5", "runtime=local"]
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    arguments = [*SMALL[:2], *small, f"privacy={mechanism}", *noise, sweep]
    status, printed = fedser("-m", *arguments)
    assert status == 0, printed
    results = read_results(tmp_path / "sweep" / "0" / "results.json")
    assert results["privacy"]["epsilon"] == 0
    assert "ε = 0 at" in (tmp_path / "sweep" / "0" / "report.html").read_text()
    assert (tmp_path / "sweep" / "sweep.png").exists()


def test_central_privacy_states_its_vantage(fedser, undrawn, tmp_path):
    assert fedser(*SMALL, "privacy=central", "privacy.epsilon=4")[0] == 0
    results = read_results(only_run(tmp_path) / "results.json")
    said = results["privacy"]
    assert (said["mechanism"], said["unit"], said["relation"]) == (
        "central",
        "client",
        "add_remove",
    )
    assert said["epsilon"] == pytest.approx(4, rel=1e-5) and said["epsilon"] <= 4
    assert said["epsilon_known_participation"] > 4
    assert (said["participation"], said["sampling"]) == ("secret", "poisson")
    assert "not the server" in said["vantage"]
    rounds = pd.read_parquet(only_run(tmp_path) / "rounds.parquet")
    assert (rounds["clipping_norm"] == 0.1).all() and rounds["train_loss"].isna().all()
    stddev = said["noise_multiplier"] * 0.1 / (0.5 * 8)  # on the mean of 8 clients at rate 0.5
    assert rounds["noise_stddev"].to_numpy() == pytest.approx(stddev)
    page = (only_run(tmp_path) / "report.html").read_text()
    assert "The server is trusted" in page


def test_check_prints_counts_and_trains_nothing(fedser, tmp_path):
    status, printed = fedser(*SMALL, "stage=check")
    assert status == 0
    assert "corpus synthetic" in printed and "corpus synthetic_de" in printed
    assert "10 speakers" in printed and "80" in printed
    assert not list(tmp_path.rglob("*.safetensors"))


AUDIT = [
    "shadow=[]",
    "folds=[0]",
    "rounds=1",
    "privacy=local",
    "privacy.noise_multiplier=0.5",
    "audit=canary",
    "audit.canaries=200",
    "audit.releases=1",
    "model.hidden=[16,8]",
]


def test_an_audit_is_reported(fedser, tmp_path):
    assert fedser(*SMALL[:2], "runtime=local", *AUDIT)[0] == 0
    results = read_results(only_run(tmp_path) / "results.json")
    assert [c["magnitude"] for c in results["audit"]["checks"]] == [1.0, 3.0]
    assert not results["audit"]["violated"]
    assert results["privacy"]["epsilon"] == pytest.approx(
        results["audit"]["checks"][0]["epsilon_upper"]
    )
    page = (only_run(tmp_path) / "report.html").read_text()
    assert "from the canaries stay below the ε of" in page


def test_a_central_audit_covers_known_and_secret_cohorts(fedser, undrawn, tmp_path):
    arguments = [a for a in AUDIT if not a.startswith("privacy=")]
    assert fedser(*SMALL[:2], "runtime=local", *arguments, "privacy=central")[0] == 0
    audit = read_results(only_run(tmp_path) / "results.json")["audit"]
    kinds = [(check["magnitude"], check["participation"]) for check in audit["checks"]]
    assert kinds == [(m, p) for m in (1.0, 3.0) for p in ("known", "secret")]
    assert not audit["violated"]


def test_a_violated_audit_is_reported_with_its_own_status(fedser, tmp_path, monkeypatch):
    monkeypatch.setattr(privacy, "add_noise", lambda values, *rest: values)
    status, printed = fedser(*SMALL[:2], "runtime=local", *AUDIT)
    assert status == 3 and "so the mechanism is broken" in printed
    assert read_results(only_run(tmp_path) / "results.json")["audit"]["violated"]
    assert "Violated" in (only_run(tmp_path) / "report.html").read_text()


def write_manifest(
    folder: Path, rows: list[tuple[str, str, str]], columns="file,speaker,emotion"
) -> Path:
    rng = np.random.default_rng(0)
    for file, _, _ in rows:
        soundfile.write(folder / file, rng.normal(0, 0.1, 8000), 16000)
    table = folder / "table.csv"
    table.write_text("\n".join([columns, *(",".join(row) for row in rows)]) + "\n")
    return table


def good_rows() -> list[tuple[str, str, str]]:
    emotions = ("neutral", "happiness", "sadness", "anger")
    return [(f"{s}-{i}.wav", f"s{s}", emotions[i % 4]) for s in range(5) for i in range(4)]


def break_missing_column(folder):
    return [
        "corpus=manifest",
        f"corpus.file={write_manifest(folder, good_rows(), 'file,speaker,feeling')}",
    ]


def break_unreadable(folder):
    table = write_manifest(folder, good_rows())
    (folder / "2-1.wav").write_bytes(b"RIFF nonsense")
    return ["corpus=manifest", f"corpus.file={table}"]


def break_empty(folder):
    table = write_manifest(folder, good_rows())
    (folder / "2-1.wav").write_bytes(b"")
    return ["corpus=manifest", f"corpus.file={table}"]


def break_lonely(folder):
    table = write_manifest(folder, [*good_rows(), ("x.wav", "solo", "anger")])
    return ["corpus=manifest", f"corpus.file={table}"]


def break_emotion(folder):
    table = write_manifest(folder, [*good_rows(), ("x.wav", "s0", "boredom")])
    return ["corpus=manifest", f"corpus.file={table}"]


def break_layout(folder):
    (folder / "some.txt").touch()
    return ["corpus=ravdess", f"corpus.root={folder}"]


def break_nan(folder):
    table = write_manifest(folder, good_rows())
    soundfile.write(folder / "2-1.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    return ["corpus=manifest", f"corpus.file={table}"]


BAD_INPUT = {
    "missing column": (break_missing_column, "table.csv", "emotion"),
    "unreadable audio": (break_unreadable, "2-1.wav", "corpus.on_bad_file=skip"),
    "empty audio": (break_empty, "2-1.wav", "corpus.on_bad_file=skip"),
    "lonely speaker": (break_lonely, "speaker solo has 1 utterance", "leave the speaker out"),
    "unknown emotion": (break_emotion, "boredom", "table.csv"),
    "other layout": (break_layout, "Actor_", "corpus.root="),
    "NaN features": (break_nan, "2-1.wav", "not finite"),
    "clip of 0": (
        lambda _: ["privacy=udp", "privacy.clipping_norm=0"],
        "privacy.clipping_norm=0",
        "above 0",
    ),
    "local without noise": (
        lambda _: ["privacy=local"],
        "privacy.epsilon",
        "set exactly one of them",
    ),
    "audit without a clip": (lambda _: ["audit=canary"], "audit=canary", "privacy=local"),
    "audit of too few": (
        lambda _: ["audit=canary", "audit.canaries=9", "privacy=local", "privacy.epsilon=8"],
        "audit",
        "100 canaries",
    ),
    "impossible plan": (lambda _: ["privacy.epsilon=5"], "privacy.epsilon", "choose privacy=local"),
    "negative epsilon": (
        lambda _: ["privacy=udp", "privacy.epsilon=-1"],
        "privacy.epsilon=-1",
        "above 0",
    ),
    "no rounds": (lambda _: ["rounds=0"], "rounds=0", "at least 1"),
    "fold out of range": (lambda _: ["folds=[5]"], "folds=[5]", "0 to 4"),
    "unknown stage": (lambda _: ["stage=trian"], "stage=trian", "train"),
    "unknown key": (lambda _: ["seeed=1"], "seeed", ""),
    "wrong type": (lambda _: ["rounds=many"], "many", ""),
    "unknown group": (lambda _: ["corpus=nemmo"], "nemmo", ""),
    "shadow is private": (
        lambda _: [f"shadow=[{SHADOW_OF_ITSELF}]"],
        "shadow: synthetic shares",
        "set other corpora",
    ),
    "central against the server": (
        lambda _: ["privacy=central", "privacy.epsilon=8", "privacy.vantage=attributed"],
        "privacy.vantage=attributed",
        "choose privacy=local",
    ),
    "resume of nothing": (lambda folder: [f"resume={folder / 'none'}"], "none", "earlier run"),
    "no nodes": (lambda _: ["runtime.min_clients=0"], "runtime.min_clients=0", "at least 1"),
    "no time": (lambda _: ["runtime.round_timeout=0"], "runtime.round_timeout=0", "above 0"),
    "no checkpoints": (lambda _: ["checkpoint_every=0"], "checkpoint_every=0", "at least 1"),
    "unknown attribute": (
        lambda _: ["adversary.attribute=age"],
        "adversary.attribute=age",
        "gender",
    ),
    "no draws": (lambda _: ["adversary.draws=0"], "adversary.draws", "at least 1"),
    "leaked updates": (
        lambda _: ["adversary.leaked_updates=[some]"],
        "adversary.leaked_updates",
        "must be a count of at least 1, or all",
    ),
    "selection of leaks": (
        lambda _: ["adversary.selection=last"],
        "adversary.selection=last",
        "random, earliest, latest",
    ),
    "combination of leaks": (
        lambda _: ["adversary.combination=max"],
        "adversary.combination=max",
        "updates, statistics, log_odds",
    ),
    "vantage": (
        lambda _: ["adversary.vantage=central"],
        "adversary.vantage=central",
        "attributed, aggregate, final",
    ),
    "unknown layer to attack": (
        lambda _: ["adversary.layers=[first,dense.7]"],
        "adversary.layers: dense.7",
        "first, second, last, all, dense.0",
    ),
    "layer that is not recorded": (
        lambda _: ["adversary.layers=[first,last]"],
        "adversary.layers: last is not recorded by transcript.layers=first",
        "set transcript.layers=all",
    ),
    "no layer to attack": (lambda _: ["adversary.layers=[]"], "adversary.layers", "first"),
    "one layer in place of a list": (
        lambda _: ["adversary.layers=first"],
        "adversary.layers",
        "",
    ),
    "snapshot without initial weights": (
        lambda _: ["attack=snapshot", "adversary.initial_weights=false"],
        "attack=snapshot needs every round's model",
        "adversary.initial_weights=true",
    ),
    "snapshot of aggregates": (
        lambda _: ["attack=snapshot", "adversary.vantage=aggregate"],
        "attack=snapshot needs",
        "adversary.vantage=attributed",
    ),
    "fusion of an absent attack": (
        lambda _: ["attack=[statistics,fusion]"],
        "attack.fusion.of=['correlation', 'snapshot'] must name",
        "statistics",
    ),
    "fusion of itself": (
        lambda _: ["attack=[statistics,fusion]", "attack.fusion.of=[fusion,statistics]"],
        "attack.fusion.of=['fusion', 'statistics']",
        "statistics",
    ),
    "fusion of nothing": (
        lambda _: ["attack=fusion", "attack.fusion.of=[]"],
        "attack.fusion.of=[]",
        "there is none",
    ),
    "fusion to recognise speakers": (
        lambda _: [
            "attack=[statistics,fusion]",
            "attack.fusion.of=[statistics]",
            "adversary.attribute=speaker",
        ],
        "attack=fusion",
        "cannot recognise a speaker",
    ),
    "features that nobody reads": (
        lambda _: ["transcript.store=features", "stage=train"],
        "transcript.store=features",
        "set transcript.store=updates",
    ),
    "snapshot of features": (
        lambda _: ["transcript.store=features", "attack=snapshot"],
        "attack=snapshot reads every model and update again",
        "set transcript.store=updates",
    ),
    "frames for a model of vectors": (
        lambda _: ["features=logmel"],
        "model=mlp reads one vector per utterance, but features.frames=200 gives frames",
        "set model=attention",
    ),
    "vectors for a model of frames": (
        lambda _: ["model=attention"],
        "model=attention reads frames, but these features are one vector per utterance",
        "set features=logmel",
    ),
    "a model without units": (
        lambda _: ["features=logmel", "model=attention", "model.frame_units=[]"],
        "model.frame_units=[]",
        "must not be empty",
    ),
    "shares for other layers": (
        lambda _: ["features=logmel", "model=attention", "privacy=layered", "privacy.epsilon=8"],
        "privacy.layer_shares names 3 layers, 6 are shared",
        "",
    ),
    "no such run": (
        lambda folder: ["stage=attack", f"run={folder / 'none'}"],
        "none",
        "earlier run",
    ),
    "more shards than utterances": (lambda _: ["corpus.shards=5"], "corpus.shards", "at least 10"),
    "unknown layer": (lambda _: ["transcript.layers=dense.7"], "dense.7", "first"),
    "too few speakers": (lambda _: ["corpus.speakers=4"], "4 speaker(s)", "at least 5"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_line_and_leaves_no_files(case, fedser, tmp_path):
    change, named, mend = BAD_INPUT[case]
    elsewhere = tmp_path / "input"
    elsewhere.mkdir()
    changes = change(elsewhere)
    base = [k for k in SMALL if not any(k.split("=")[0] == c.split("=")[0] for c in changes)]
    if any(c.startswith("corpus=") for c in changes):
        base = [k for k in base if not k.startswith("corpus.")]
    before = sorted(elsewhere.rglob("*"))
    status, printed = fedser(*base, *changes)
    assert status == 2
    lines = [line for line in printed.splitlines() if line.startswith("fedser: ")]
    assert len(lines) == 1 and "Traceback" not in printed and "Error executing" not in printed
    assert named in lines[0] and mend in lines[0]
    assert sorted(elsewhere.rglob("*")) == before
    assert os.listdir(tmp_path) == ["input"]


def test_unreadable_audio_is_skipped_on_request_and_counted(fedser, undrawn, tmp_path):
    rows = [
        (f"{s}-{i}.wav", f"s{s}", ("neutral", "anger")[i % 2]) for s in range(5) for i in range(6)
    ]
    table = write_manifest(tmp_path, [*rows, ("x.wav", "s0", "fear")])
    (tmp_path / "2-1.wav").write_bytes(b"")
    status, _ = fedser(
        "corpus=manifest",
        "+corpus.emotions.fear=null",
        f"corpus.file={table}",
        "corpus.on_bad_file=skip",
        "stage=train",
        "rounds=1",
        "runtime=local",
        "folds=[0]",
    )
    assert status == 0
    results = read_results(only_run(tmp_path) / "results.json")
    corpus = results["corpus"]
    assert corpus["utterances"] == 29
    assert corpus["skipped"] == ["2-1.wav"]
    assert corpus["left_out"] == {"fear": 1}
    assert results["config"]["corpus"]["file"] == f"…/{table.name}"
    for name in ("results.json", "report.html"):  # people share them: they name no user's folder
        assert str(tmp_path) not in (only_run(tmp_path) / name).read_text()
