"""A damaged or hostile transcript ends in an error of one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fedser.common.errors import UserError
from fedser.server.transcript.transcript import Transcript
from tests.server.transcript.test_transcript import LAYERS, meta, write

Changed = Callable[[np.ndarray], np.ndarray | None]
CHANGES: dict[str, Changed] = {
    "gone": lambda array: None,
    "half": lambda array: np.ascontiguousarray(array[: len(array) // 2]),
    "one number": lambda array: np.array(3, array.dtype),
    "flat": lambda array: np.ascontiguousarray(array.reshape(-1)[:-1]),
    "text": lambda array: np.frombuffer(b"x" * array.size, np.uint8).reshape(array.shape)[:1],
}
COLUMNS: dict[str, Changed] = {
    "negative": lambda array: np.full_like(array, -5),
    "huge": lambda array: np.full_like(array, 2**60),
    "fractions": lambda array: array.astype(np.float64),
}
FIGURES: dict[str, Changed] = {
    "NaN": lambda array: np.full_like(array, np.nan),
    "infinite": lambda array: np.full_like(array, np.inf),
}
CASES = [
    *(("updates", n, c) for n in (*LAYERS[:1], "dense.0.bias.scale") for c in CHANGES | FIGURES),
    *(("updates", n, c) for n in ("round", "client", "num_examples") for c in CHANGES | COLUMNS),
    *(("globals", "round", c) for c in CHANGES | COLUMNS),
    *(("globals", "dense.0.weight", c) for c in FIGURES),
]
META: dict[str, Any] = {
    "layers": [None, -1, [1], 10**17, "x", {}],
    "training": [None, -1, "x", [1], {"a": 1}, {"learning_rate": 0}, {"epochs": "1"}],
    "numbers": [-1, "x", [1], {"x": 1}],
    "num_clients": [0, -1, "9", None],
    "num_rounds": [-1, 1.5],
    "algorithm": ["evil", None],
    "dtype": ["object"],
    "federation": [7, "x" * 10**5],
    "_target_": ["subprocess.Popen"],
}


def read_all(folder: Path) -> None:
    """Read a transcript in all the ways in which attacks read it."""
    stored = Transcript(folder)
    list(stored)
    list(stored.of_clients(LAYERS))
    list(stored.global_models())
    stored.models(np.array([1, 2]), ["dense.0.weight"])
    assert len(stored.num_examples) == 9 and stored.num_models == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, range(1, 4), meta("float16"))
    read_all(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("kind", "name", "change"), CASES)
def test_a_damaged_array_is_rejected(folder: Path, kind: str, name: str, change: str):
    path = folder / f"{kind}-00000.safetensors"
    arrays = load_file(path)
    changed = (CHANGES | COLUMNS | FIGURES)[change](arrays.pop(name))
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file(arrays if changed is None else {**arrays, name: changed}, path, metadata)
    with pytest.raises(UserError, match="damaged transcript") as said:
        read_all(folder)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in META.items() for v in values])
def test_a_damaged_description_is_rejected(folder: Path, key: str, value: Any):
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match="no readable transcript; run fedser stage=train"):
        Transcript(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"null", b"[]", b"{", b"7" * 10**6])
@pytest.mark.parametrize("name", ["meta.json", "updates-00000.safetensors"])
def test_a_damaged_file_is_rejected(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="transcript"):
        read_all(folder)
