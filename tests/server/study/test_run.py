import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import ray
import yaml
from flwr.app import Context, RecordDict, UserConfig
from omegaconf.errors import OmegaConfBaseException
from ray.cluster_utils import Cluster
from safetensors.numpy import load_file

from fedser import client
from fedser.client.app import app as client_app
from fedser.client.corpora.build import build_corpus, named_corpus
from fedser.client.corpora.emodb import Emodb
from fedser.client.corpora.nemo import Nemo
from fedser.client.corpora.pooled import Pooled
from fedser.client.features.opensmile import OpenSmile
from fedser.common.errors import UserError
from fedser.conf.build import build, build_group, compose
from fedser.conf.schema import RuntimeConfig
from fedser.server import app as server_app
from fedser.server.grids import ray as ray_grid
from fedser.server.grids.local import LocalGrid
from fedser.server.grids.ray import RayGrid
from fedser.server.grids.ray_auth import MODE, _environment
from fedser.server.strategy.averaging import TappedAveraging
from fedser.server.study.run import run_federations, study_config
from fedser.server.transcript.transcript import Transcript
from tests.examples import ATTENTION, CENTRAL, MLP, UDP, federation

pytestmark = pytest.mark.all_cores

LOCAL = RuntimeConfig("local")


def chunk_of(folder):
    (chunk,) = Transcript(folder)
    return chunk


def test_ray_and_local_give_bitwise_equal_numbers(tmp_path):
    studies = {}
    for runtime in ("local", "ray"):
        made = [
            replace(federation(tmp_path / runtime / "a", rounds=3, privacy=UDP), name="a"),
            replace(federation(tmp_path / runtime / "b", rounds=2), name="b"),
            # the cohort of its first round is empty
            replace(
                federation(tmp_path / runtime / "f", rounds=3, fraction=0.2, privacy=CENTRAL),
                name="f",
            ),
        ]
        studies[runtime] = run_federations(made, RuntimeConfig(runtime))
    for name in ("a", "b", "f"):
        local, ray = (chunk_of(tmp_path / runtime / name) for runtime in ("local", "ray"))
        np.testing.assert_array_equal(local.client, ray.client)
        for layer in local.arrays:
            np.testing.assert_array_equal(local.arrays[layer], ray.arrays[layer])
    for local, ray in zip(*studies.values(), strict=True):
        assert local.best_round == ray.best_round and local.epsilon == ray.epsilon
        assert [r.test_uar for r in local.rounds] == [r.test_uar for r in ray.rounds]
        assert [r.clients for r in local.rounds] == [r.clients for r in ray.rounds]
        for layer in local.best_arrays:
            np.testing.assert_array_equal(local.best_arrays[layer], ray.best_arrays[layer])
    *_, central = studies["ray"]
    assert [row.clients for row in central.rounds] == [0, 1, 1]
    models = dict(Transcript(tmp_path / "ray" / "f").global_models())
    assert len(central.rounds) == 3 and list(models) == [1, 2, 3, 4]
    for before, after in ((1, 2), (2, 3), (3, 4)):
        assert all((models[before][n] != models[after][n]).all() for n in models[before])


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        (RuntimeConfig("cloud"), r"runtime\.name=cloud is not one of ray, local"),
        (RuntimeConfig("ray", {"num_cpus": 0.0}), r"runtime\.client_resources\.num_cpus=0"),
        (RuntimeConfig("ray", {"num_cpus": 9999.0}), r"num_cpus=9999\.0 must lie in \(0, "),
    ],
)
def test_an_impossible_runtime_is_rejected(tmp_path, runtime, message):
    with pytest.raises(UserError, match=message):
        run_federations([federation(tmp_path / "t")], runtime)


def test_a_missing_gpu_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    runtime = study_config(compose(["runtime=gpu"])).runtime
    assert runtime.client_resources == {"num_cpus": 1, "num_gpus": 1}
    with pytest.raises(UserError, match="no GPU can be used"):
        run_federations([federation(tmp_path / "t")], runtime)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Start two Ray nodes of one CPU each; they cannot import this repository by themselves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # a path of sockets must be short
    with _environment({**MODE, "RAY_AUTH_TOKEN": "of this cluster" * 3}):
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False})
        cluster.add_node()
        yield cluster
        cluster.shutdown()


def test_a_cluster_without_shared_files_gives_the_same_numbers(cluster, tmp_path, monkeypatch):
    start, share_file = ray_grid._start, RayGrid.share_file
    read = TappedAveraging._read
    places, trained = {}, set()

    def start_and_list_nodes(*settings):
        nodes = start(*settings)
        look = [
            node.__ray_call__.remote(lambda _: (node_of_ray(), client.__file__)) for node in nodes
        ]
        places.update(enumerate(ray.get(look), start=1))
        return nodes

    def share_and_delete(grid, path):
        share_file(grid, path)
        path.unlink()

    def note(strategy, reply, share):
        trained.add(reply.metadata.src_node_id)
        return read(strategy, reply, share)

    def node_of_ray():
        return ray.get_runtime_context().get_node_id()

    def outcomes(runtime):
        folder = tmp_path / runtime.name
        models = {"a": MLP, "b": MLP, "c": ATTENTION}
        made = [
            replace(federation(folder / name, privacy=UDP, model=model), name=name)
            for name, model in models.items()
        ]
        # the first federation runs over both nodes, the others one after another on each
        return run_federations(made[:1], runtime) + run_federations(made, runtime)[1:]

    local = outcomes(RuntimeConfig("local"))
    monkeypatch.setattr(ray_grid, "_start", start_and_list_nodes)
    monkeypatch.setattr(RayGrid, "share_file", share_and_delete)
    monkeypatch.setattr(TappedAveraging, "_read", note)
    joined = outcomes(RuntimeConfig("ray", ray_address=cluster.address))
    machines, sources = zip(*places.values(), strict=True)
    assert len(set(machines)) == 2 and trained == {1, 2}
    assert all("py_modules" in source for source in sources)  # the copy that Ray sent
    for one, other in zip(local, joined, strict=True):
        assert [r.test_uar for r in one.rounds] == [r.test_uar for r in other.rounds]
        for layer, array in one.best_arrays.items():
            np.testing.assert_array_equal(array, other.best_arrays[layer])
    for name in ("a", "b", "c"):
        one, other = (chunk_of(tmp_path / runtime / name) for runtime in ("local", "ray"))
        np.testing.assert_array_equal(one.arrays["dense.0.weight"], other.arrays["dense.0.weight"])
    left = [path for path in tmp_path.glob("fedser-*/*") if path.suffix != ".lock"]
    assert not left  # nodes remove their files


def test_build_checks_fields_and_types():
    settings = {
        "_target_": "fedser.client.features.opensmile.OpenSmile",
        "feature_set": "emobase",
        "sampling_rate": 16000,
    }
    assert build(settings) == OpenSmile("emobase", 16000)
    with pytest.raises(OmegaConfBaseException, match="sampling_rate"):
        build({**settings, "sampling_rate": "fast"})
    with pytest.raises(OmegaConfBaseException, match="sampling"):
        build({**settings, "sampling": 1})


def test_a_missing_value_of_a_group_is_named():
    settings = {
        "_target_": "fedser.client.features.huggingface.HuggingFace",
        "path": "???",
        "batch_size": 8,
    }
    with pytest.raises(UserError, match=r"features\.path: .* missing mandatory value"):
        build_group("features", {**settings, "layer": -1})
    with pytest.raises(UserError, match=r"features\.layer: Value 'last' .* Integer"):
        build_group("features", {**settings, "path": "/m", "layer": "last"})


def test_parts_of_a_pool_are_composed_like_shadow_corpora():
    parts = ["nemo", {"corpus": "emodb", "name": "berlin", "speakers": ["03", 16]}]
    settings = named_corpus("shadow", {"corpus": "pooled", "shards": 2, "parts": parts}, "/a b")
    nemo = Nemo("nemo", 5, "error", "/a b/nemo")
    emodb = Emodb("berlin", 4, "error", "/a b/emodb", speakers=["03", "16"])
    assert build_corpus(settings, "/a b") == Pooled("pooled", 2, "error", [nemo, emodb])
    assert build_corpus(named_corpus("shadow", "nemo", "/a b"), "/elsewhere") == nemo


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"name": "x"},
            r"shadow: the entry \{'name': 'x'\} names no corpus: write NAME or \{corpus: NAME, KEY",
        ),
        (5, "shadow: the entry 5 names no corpus"),
    ],
)
def test_an_entry_that_names_no_corpus_is_rejected(entry, message):
    with pytest.raises(UserError, match=message):
        named_corpus("shadow", entry, "/data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": "nemo"}, r"corpus\.parts=nemo: must be a list, such as \[ravdess,emodb\]"),
        ({"parts": None}, r"corpus\.parts=None: must be a list"),
        ({"parts": [5]}, r"corpus\.parts: the entry 5 names no corpus"),
        ({"speakers": "01"}, r"corpus\.speakers: "),
        ({"shards": "many"}, r"corpus\.shards: Value 'many'"),
    ],
)
def test_a_corpus_names_the_key_of_a_bad_value(change, message):
    settings = {**named_corpus("shadow", "pooled", "/data"), **change}
    with pytest.raises(UserError, match=message):
        build_corpus(settings, "/data")


def test_flwr_run_leaves_a_run_that_can_be_attacked(tmp_path):
    overrides = [
        "corpus.speakers=6",
        "corpus.utterances_per_speaker=4",
        "rounds=2",
        "cohort_fraction=1.0",
        "folds=[1]",
        f"cache={tmp_path / 'cache'}",
    ]
    settings = UserConfig({"overrides": " ".join(overrides), "output": str(tmp_path / "run")})
    server_app.app(LocalGrid(client_app), Context(1, 0, UserConfig(), RecordDict(), settings))
    run = tmp_path / "run"
    training = json.loads((run / "training.json").read_text())
    assert training["speakers"] == 6 and training["rounds_per_second"] > 0
    assert len(training["utility"]["per_fold"]) == 1
    assert len(chunk_of(run / "transcript" / "private-fold1")) == 2 * 5
    assert len(pd.read_parquet(run / "rounds.parquet")) == 2
    assert set(pd.read_parquet(run / "truth.parquet")["gender"]) == {"female", "male"}
    assert load_file(run / "model.safetensors")["fold1.dense.2.bias"].shape == (4,)
    assert yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text()) == overrides


@pytest.mark.parametrize(
    ("given", "renamed"),
    [
        (
            "corpus.emotions=[['радость', happiness], ['a/b', null]]",
            {"радость": "happiness", "a/b": None},
        ),
        ("corpus.emotions={joyful: happiness}", {"joyful": "happiness"}),
        ("corpus.emotions=null", {}),
    ],
)
def test_emotions_are_renamed_by_pairs_or_by_keys(given, renamed):
    settings = compose(["corpus=manifest", "corpus.file=x.csv", given], "node").corpus
    assert build_corpus(settings, "").emotions == renamed


def test_emotions_that_are_not_pairs_are_rejected():
    given = ["corpus=manifest", "corpus.file=x.csv", "corpus.emotions=[joyful]"]
    with pytest.raises(UserError, match=r"a list of pairs \[\[NAME, EMOTION\]\]"):
        build_corpus(compose(given, "node").corpus, "")


def test_one_shadow_corpus_needs_no_brackets():
    assert study_config(compose(["shadow=synthetic_de"])).shadow == ["synthetic_de"]
