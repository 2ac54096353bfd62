"""No file that may come from somebody else is unpickled."""

import ast
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

from fedser.client.corpora.table import read as read_corpus_table
from fedser.client.features.huggingface import HuggingFace
from fedser.client.features.pretrained import prepare_torchaudio
from fedser.client.features.s3prl import UPSTREAMS, S3prl
from fedser.client.holdings import Holdings
from fedser.client.training.dataset import Dataset
from fedser.common.cache import read_array
from fedser.common.files import read_yaml
from fedser.common.tables import read_table
from fedser.results.files import read_results
from fedser.server.rounds.checkpoint import saved_rounds
from fedser.server.transcript.transcript import Transcript
from tests import ROOT
from tests.hostile.test_corpora import Runs

PACKAGES = ("client", "server", "attacks", "conf", "common", "fedser")
SAFE: dict[str, dict[str, object]] = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "yaml.safe_load": {},
    "json.load": {},
    "json.loads": {},
    "Holdings.load": {},
    "PublicModel.load": {},
    "Dataset.load": {},
    "Identity.load": {},
    "NodeLedger.load": {},
    "NodePolicy.load": {},
    "checkpoint.load": {},
    "Database.load": {},  # `client.corpora.audformat` checks the header first
    "AutoFeatureExtractor.from_pretrained": {"trust_remote_code": False},
    "AutoModel.from_pretrained": {"trust_remote_code": False, "weights_only": True},
}
"""Allowed calls with a name in READS, and the arguments that forbid them to run code."""
READS = {"load", "loads", "from_pretrained", "unsafe_load", "full_load", "read_hdf"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text("utf-8"))


def constants(call: ast.Call, tree: ast.Module) -> dict[str, object]:
    """Return the constant keyword arguments of a call, also those of ``**local``."""
    found: dict[str, object] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            assigned = [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign)
                and ast.unparse(node.targets[0]) == ast.unparse(keyword.value)
            ]
            for value in assigned:
                found |= ast.literal_eval(value)
        elif isinstance(keyword.value, ast.Constant):
            found[keyword.arg] = keyword.value.value
    return found


def test_every_loading_call_forbids_pickles():
    """Every call with a name in READS must be in SAFE, and must pass the arguments listed there."""
    seen = set()
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name = ast.unparse(node.func)
            if node.func.attr not in READS or "pickle" in name:
                continue
            assert name in SAFE, f"{path}:{node.lineno}: {name}"
            given = constants(node, tree)
            assert SAFE[name].items() <= given.items(), f"{path}:{node.lineno}: {name}"
            seen.add(name)
    assert {"torch.load", "np.load", "AutoModel.from_pretrained"} <= seen


def test_no_unpickler_is_imported():
    """Neither an unpickler nor another function of libraries that reads pickles."""
    for path, tree in sources():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                assert name.split(".")[0] not in UNPICKLERS, f"{path}:{node.lineno}: {name}"
            reader = isinstance(node, ast.Attribute) and node.attr in {"read_pickle", "Unpickler"}
            assert not reader, f"{path}:{getattr(node, 'lineno', 0)}"


_found: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class" and _found is not None:
        _found.append(".".join(map(str, arguments)))


sys.addaudithook(_note)


@contextmanager
def unpickled() -> Iterator[list[str]]:
    """Collect the names of all classes that are unpickled within this context."""
    global _found
    _found = []
    try:
        yield _found
    finally:
        _found = None


class PickledType(pa.ExtensionType):
    """A Python type as pyarrow wrote it before 14.0.1: reading it unpickled it."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        super().__init__(pa.int64(), "arrow.py_extension_type")

    def __arrow_ext_serialize__(self) -> bytes:
        return self._content

    @classmethod
    def __arrow_ext_deserialize__(
        cls, storage_type: pa.DataType, serialized: bytes
    ) -> "PickledType":
        return cls(serialized)


def parquet(path: Path, content: bytes) -> None:
    column = pa.ExtensionArray.from_storage(PickledType(content), pa.array([1, 2]))
    pq.write_table(pa.table({"file": column}), path)


def numpy_objects(path: Path, content: bytes) -> None:
    np.save(path, np.array([0]))
    data = path.read_bytes().replace(b"'<i8'", b"'|O' ")
    path.write_bytes(data[:-8] + content)


def plain(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def yaml_object(path: Path, content: bytes) -> None:
    path.write_text("!!python/object/apply:pickle.loads [!!binary " + content.hex() + "]")


def hub_model(path: Path, content: bytes) -> None:
    prepare_torchaudio()
    transformers.Wav2Vec2Config(num_hidden_layers=1).save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(path)
    (path / "pytorch_model.bin").write_bytes(content)


def transcript(path: Path, content: bytes) -> None:
    path.mkdir()
    for name in ("meta.json", "updates-00000.safetensors", "models-00000.safetensors"):
        (path / name).write_bytes(content)


def read_transcript(path: Path) -> None:
    Transcript(path).global_models()


CASES: dict[str, tuple[str, Callable[[Path, bytes], None], Callable[[Path], object]]] = {
    "results": ("results.json", plain, read_results),
    "figures of rounds": ("rounds.parquet", plain, read_table),
    "a type in Parquet": ("rounds.parquet", parquet, read_table),
    "a corpus' Parquet": ("table.parquet", parquet, read_corpus_table),
    "a corpus' table": ("table.csv", plain, read_corpus_table),
    "options": ("overrides.yaml", yaml_object, read_yaml),
    "a cached array": ("x.npy", plain, read_array),
    "objects in a cached array": ("x.npy", numpy_objects, read_array),
    "a node's holdings": ("x.safetensors", plain, Holdings.load),
    "a client's data": ("x.safetensors", plain, lambda path: Dataset.load(path, "cpu")),
    "a checkpoint": ("state.safetensors", plain, lambda path: saved_rounds(path.parent, 0)),
    "a transcript": ("transcript", transcript, read_transcript),
    "an encoder": ("model", hub_model, lambda path: HuggingFace(str(path), 0, 1)._loaded),
    **{
        f"a checkpoint of {name}": (
            "x.ckpt",
            plain,
            lambda path, n=name: S3prl(n, str(path), 0)._model,
        )
        for name in UPSTREAMS
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_pickle_in_place_of_a_file_is_not_opened(case: str, tmp_path: Path):
    name, write, read = CASES[case]
    mark = tmp_path / "ran"
    write(tmp_path / name, pickle.dumps(Runs(mark), protocol=2))  # torch's
    with unpickled() as names, suppress(Exception):  # its message is tested elsewhere
        read(tmp_path / name)
    assert names == []
    assert not mark.exists()


def test_the_check_notices_an_unpickled_object(tmp_path: Path):
    mark = tmp_path / "ran"
    with unpickled() as names:
        pickle.loads(pickle.dumps(Runs(mark)))
    assert len(names) == 1 and mark.exists()
