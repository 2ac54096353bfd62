"""Real nodes over TLS on the loopback interface, as docker/compose.yaml runs them."""

import importlib.util
import json
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flwr.superlink.grid import HttpGrid
from safetensors.numpy import load_file
from scipy.stats import kstest

from fedser.client.encryption.ckks import SLOTS, STEP
from fedser.client.node.policy import NodeLedger
from fedser.client.privacy.gaussian import gaussian_mu
from fedser.common.processes import free_port
from fedser.conf.build import compose
from fedser.server.network.superlink import listens
from fedser.server.study.run import study_config
from fedser.server.transcript.transcript import Transcript
from fedser.stages.study import run_study
from tests.network.compose import BIN, certify, proxied, services, up
from tests.network.corpus import divide_speakers

SPEAKERS, NODES, ROUNDS = 6, 2, 4
TRAINED = 4
"""Training speakers of a federation; the others are its test speakers."""
ENCRYPTED_ROUNDS = 2 if importlib.util.find_spec("tenseal") else 0
NAMES = [f"node-{number}" for number in range(1, NODES + 1)]
STUDY = [
    f"rounds={ROUNDS}",
    "folds=[0]",
    "cohort_fraction=1",
    "stage=train",
    "transcript.layers=all",
    "transcript.dtype=float32",
    "checkpoint_every=1",
]


@dataclass
class Seen:
    """All replies of the nodes: the node and the records of each."""

    replies: list[tuple[int, dict]] = field(default_factory=list)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        pull = HttpGrid.pull_messages

        def watched(grid, message_ids):
            messages = pull(grid, message_ids)
            for message in messages:
                assert message.has_content(), message.error
                records = {name: dict(record) for name, record in message.content.items()}
                self.replies.append((message.metadata.src_node_id, records))
            return messages

        patch.setattr(HttpGrid, "pull_messages", watched)


@dataclass
class Studied:
    folder: Path
    plain: Seen
    noised: Seen
    summed: Seen
    encrypted: Seen
    logs: dict[str, str]
    refused: subprocess.CompletedProcess


@pytest.fixture(scope="module")
def speakers(tmp_path_factory) -> Path:
    """Return a folder with one folder per node: a table and the audio of three speakers."""
    folder = tmp_path_factory.mktemp("speakers")
    divide_speakers(folder, [SPEAKERS // NODES] * NODES, 8)
    return folder


@pytest.fixture(scope="module")
def studied(tmp_path_factory, speakers) -> Studied:
    """Run a simulation and the same study over nodes; two other nodes try to take part."""
    folder = tmp_path_factory.mktemp("network")
    certificates, port = folder / "certificates", free_port()
    certify(certificates, [SPEAKERS // NODES] * NODES)
    certify(folder / "other", [1])
    cache = [f"cache={folder / 'cache'}", "corpus=manifest", "corpus.name=mine"]
    config = study_config(
        compose([*cache, *STUDY, "runtime=local", f"corpus.file={speakers / 'truth.csv'}"])
    )
    (folder / "simulated").mkdir()
    run_study(config, {}, folder / "simulated")

    described, secrets = services(
        {"FEDSER_SPEAKERS": str(speakers), "FEDSER_CERTIFICATES": str(certificates)}
    )
    over = [f"runtime.{key}" for key in ("start=false", f"address=localhost:{port}")]
    over += [f"runtime.certificates={certificates}", f"runtime.secret={secrets['secret']}"]
    over = [*cache, "corpus.file=null", *STUDY, "runtime=network", *over, "runtime.patience=600"]
    impostor = dict(described["node-1"], secrets=["ca.crt", {"source": "other", "target": "key"}])
    secrets["other"] = str(folder / "other" / "keys" / "1")
    nodes = {name: s for name, s in described.items() if name in NAMES}
    plain, noised, summed, encrypted = Seen(), Seen(), Seen(), Seen()
    studies = [
        ("network", plain, []),
        ("noised", noised, ["rounds=1", "privacy=local", "privacy.epsilon=8"]),
        ("summed", summed, ["rounds=1", "privacy=distributed", "privacy.epsilon=8"]),
    ]
    if ENCRYPTED_ROUNDS:
        changed = ["privacy.aggregation=ckks", "privacy.kept=0.1"]
        studies.append(("encrypted", encrypted, [f"rounds={ENCRYPTED_ROUNDS}", *changed]))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        (folder / "run" / "superlink").mkdir(parents=True)
        superlink = up(described["superlink"], secrets, port, folder / "run" / "superlink")
        stack.enter_context(superlink)
        assert listens(f"localhost:{port}")
        door = stack.enter_context(proxied(port, certificates, folder / "run" / "proxy"))
        for name, service in {**nodes, "impostor": impostor}.items():
            place = folder / "run" / name
            if name != "node-1":  # node-1 extracts its features itself
                shutil.copytree(folder / "cache" / "features", place / "cache" / "features")
            place.mkdir(parents=True, exist_ok=True)
            stack.enter_context(up(service, secrets, door, place))
        for name, seen, changed in studies:
            (folder / name).mkdir()
            with patch.context() as watching:
                seen.watch(watching)
                run_study(study_config(compose([*over, *changed])), {}, folder / name)
        command = [BIN / "flower-supernode", "--superlink", f"localhost:{door}"]
        refused = subprocess.run(
            [
                *(*command, "--isolation", "process", "--port", str(free_port())),
                *("--root-certificates", certificates / "ca.crt"),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        logs = {n: (folder / "run" / n / "log").read_text() for n in (*nodes, "impostor")}
    return Studied(folder, plain, noised, summed, encrypted, logs, refused)


def test_a_networked_study_is_the_simulated_one(studied):
    networked, simulated = (studied.folder / name for name in ("network", "simulated"))
    ours, theirs = (Transcript(f / "transcript" / "private-fold0") for f in (networked, simulated))
    compared = 0
    for here, there in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(here.round, there.round)
        np.testing.assert_array_equal(here.client, there.client)
        np.testing.assert_array_equal(here.num_examples, there.num_examples)
        for row in range(len(here)):
            pairs = [(here.arrays[n][row], there.arrays[n][row]) for n in here.arrays]
            apart = np.sqrt(sum(np.square(x - y, dtype=float).sum() for x, y in pairs))
            norm = np.sqrt(sum(np.square(y, dtype=float).sum() for _, y in pairs))
            assert apart <= 1e-5 * norm  # float32 sums in another order, amplified by Adam
            compared += 1
    assert compared == TRAINED * ROUNDS
    for (_, here), (_, there) in zip(ours.global_models(), theirs.global_models(), strict=True):
        for name, array in there.items():
            np.testing.assert_allclose(here[name], array, rtol=0, atol=1e-7)
    models = [load_file(f / "model.safetensors") for f in (networked, simulated)]
    for name, array in models[1].items():
        np.testing.assert_allclose(models[0][name], array, rtol=0, atol=1e-7)
    rounds = [pd.read_parquet(f / "rounds.parquet") for f in (networked, simulated)]
    for column in ("train_loss", "update_norm_mean", "validation_uar", "test_uar", "clients"):
        np.testing.assert_allclose(rounds[0][column], rounds[1][column], rtol=1e-5)
    ledgers = [pd.read_parquet(f / "ledger.parquet") for f in (networked, simulated)]
    pd.testing.assert_frame_equal(*ledgers)
    here, there = (json.loads((f / "results.json").read_text()) for f in (networked, simulated))
    assert here["utility"] == there["utility"]
    assert here["corpus"]["utterances"] == there["corpus"]["utterances"] == 8 * SPEAKERS


def test_nothing_else_leaves_a_node(studied):
    rosters = [r["roster"]["json"] for _, r in studied.plain.replies if "roster" in r]
    parsed = [json.loads(text) for text in rosters]
    assert sorted(s for roster in parsed for s in roster["speakers"]) == [
        f"s{number:03d}" for number in range(SPEAKERS)
    ]
    for roster in parsed:
        assert roster == {
            "version": parsed[0]["version"],
            "corpus": "mine",
            "shards": 1,
            "features": parsed[0]["features"],
            "dimension": 988,
            "speakers": dict.fromkeys(roster["speakers"], 8),
        }
    replies = [(node, r) for node, r in studied.plain.replies if "roster" not in r]
    assert len(replies) == NODES * (ROUNDS + 1)  # plus one evaluation of the last model
    shapes = {
        n: a.shape for n, a in load_file(studied.folder / "network/model.safetensors").items()
    }
    validated = tested = trained = 0
    for _, records in replies:
        evaluation = records.pop("evaluation")
        assert set(evaluation) == {"validation", "test"}
        assert all(len(m) == 16 and all(type(n) is int for n in m) for m in evaluation.values())
        validated += sum(evaluation["validation"])
        tested += sum(evaluation["test"])
        if records:
            assert set(records) == {"arrays", "metrics"}
            arrays = {n: a.numpy() for n, a in records["arrays"].items()}
            assert {f"fold0.{n}": a.shape[1:] for n, a in arrays.items()} == shapes
            count = len(records["metrics"]["clients"])
            assert all(len(a) == count and a.dtype == np.float32 for a in arrays.values())
            assert set(records["metrics"]) == {"clients", "num_examples", "loss"}
            assert records["metrics"]["num_examples"] == [6] * count
            assert len(records["metrics"]["loss"]) == count
            trained += count
    # A training speaker has six training and two validation utterances; a test speaker has eight.
    assert trained == TRAINED * ROUNDS
    assert validated == 2 * TRAINED * (ROUNDS + 1)
    assert tested == 8 * (SPEAKERS - TRAINED) * (ROUNDS + 1)


def test_nodes_of_one_machine_compile_only_once(studied):
    kept = studied.folder / "run" / "compiled"
    assert len(list(kept.rglob("compiled._train-*.nbc"))) == 1


def test_counts_and_losses_are_withheld_over_the_network(studied):
    trained = [r for _, r in studied.noised.replies if "arrays" in r]
    assert sum(len(r["metrics"]["clients"]) for r in trained) == TRAINED
    assert all(set(r["metrics"]) == {"clients"} for r in trained)
    results = json.loads((studied.folder / "noised" / "results.json").read_text())
    assert any("Over the network each node reports" in w for w in results["privacy"]["warnings"])


def test_nodes_sum_under_masks_and_count_what_they_spent(studied):
    uploads = [r["arrays"] for _, r in studied.summed.replies if "arrays" in r]
    values = np.concatenate([a.numpy().ravel() for arrays in uploads for a in arrays.values()])
    assert values.dtype == np.uint32 and kstest(values[::97] / 2**32, "uniform").pvalue > 1e-6
    steps = [set(r) for _, r in studied.summed.replies]
    for step in ("bundles", "sealed", "signatures", "shares"):
        assert sum(step in found for found in steps) == NODES
    rounds = pd.read_parquet(studied.folder / "summed" / "rounds.parquet")
    assert list(rounds["clients"]) == [TRAINED]
    results = json.loads((studied.folder / "summed" / "results.json").read_text())
    assert "the server included" in results["privacy"]["vantage"]
    # each node counts by itself what the server's ledger says: the epsilon of its speakers
    spent = {}
    for name in NAMES:
        spent |= NodeLedger.load(studied.folder / "run" / f"ledger-{name[-1]}" / "10001.json").spent
    assert len(spent) == SPEAKERS - 2
    noised = [row.mu_squared for row in spent.values()]
    unprotected = ROUNDS + ENCRYPTED_ROUNDS
    assert all(row.unprotected == unprotected for row in spent.values())
    assert all(row.updates == unprotected + 2 for row in spent.values())
    local = 2 * gaussian_mu(8, 1e-5) ** 2 / 4  # replace-one has twice the sensitivity of zero-out
    assert noised == pytest.approx([local / 2 + gaussian_mu(8, 1e-5) ** 2] * TRAINED, rel=1e-3)


@pytest.mark.skipif(not ENCRYPTED_ROUNDS, reason="needs tenseal: pip install 'fedser[encrypted]'")
def test_nodes_take_turns_to_open_encrypted_sums(studied):
    replies = [(n, r) for n, r in studied.encrypted.replies if "roster" not in r]
    holders = [node for node, records in replies if "key" in records]
    opened = [(node, r["arrays"]["sum"].numpy()) for node, r in replies if "arrays" in r]
    assert len(set(holders)) == NODES and [node for node, _ in opened] == holders
    coordinates = sum(
        array.size for array in load_file(studied.folder / "network/model.safetensors").values()
    )
    assert [len(total) for _, total in opened] == [coordinates, round(0.1 * coordinates)]
    uploads = [r["ciphertexts"] for _, r in replies if "ciphertexts" in r]
    sent = [len(upload["content"]) / len(set(upload["client"])) for upload in uploads]
    assert sorted(set(sent)) == [-(-len(total) // SLOTS) for _, total in reversed(opened)]
    rounds = pd.read_parquet(studied.folder / "encrypted" / "rounds.parquet")
    assert list(rounds["clients"]) == [TRAINED] * ENCRYPTED_ROUNDS
    # round 1 is full: its model is that of the same round in the clear, but for rounding
    first = [
        dict(Transcript(studied.folder / f / "transcript" / "private-fold0").global_models())[2]
        for f in ("encrypted", "network")
    ]
    for name, array in first[1].items():
        np.testing.assert_allclose(first[0][name], array, rtol=0, atol=STEP)


def test_a_node_without_a_registered_key_is_rejected(studied):
    assert "Trying again" in studied.logs["impostor"]
    assert "[code: 2004]" in studied.logs["impostor"]
    assert studied.refused.returncode != 0
    assert "Failed to initialize the connection" in studied.refused.stdout + studied.refused.stderr
    answered = [node for node, records in studied.plain.replies if "roster" in records]
    assert len(set(answered)) == len(answered) == NODES
