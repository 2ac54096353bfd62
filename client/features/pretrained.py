"""What encoders of speech with pretrained weights have in common."""

import contextlib
import hashlib
import importlib
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import torch

from fedser.common.errors import UserError


def release(package: str) -> str:
    """Return the version of an optional package.

    Raises
    ------
    UserError
        If it is not installed, naming what brings it.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise UserError(
            f"features: the package {package} is not installed: pip install 'fedser[encoders]'"
        ) from error


def prepare_torchaudio() -> None:
    """Import torchaudio, without its compiled part where that does not load.

    transformers imports it wherever it is installed and s3prl needs it, both for what is written
    in Python alone; PyPI's is compiled for CUDA and does not load beside a PyTorch without it.
    """
    with contextlib.suppress(ImportError):
        try:
            importlib.import_module("torchaudio")
        except (OSError, RuntimeError):  # no library, or one for another version of CUDA
            stub = ModuleType("torchaudio._extension")
            stub.__dict__["_IS_TORCHAUDIO_EXT_AVAILABLE"] = False
            stub.__dict__["fail_if_no_align"] = lambda function: function
            sys.modules[stub.__name__] = stub
            importlib.import_module("torchaudio")


def fingerprint(files: Iterable[Path]) -> str:
    """Return the start of a digest of the files' contents, in order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def device() -> torch.device:
    """Return the first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_layer(layer: int, count: int) -> None:
    """Refuse a layer that a model of so many hidden states does not have.

    Raises
    ------
    UserError
        Naming the key and the layers.
    """
    if not -count <= layer < count:
        raise UserError(
            f"features.layer={layer}: the model has hidden states 0 to {count - 1}, "
            f"counted from the end -1 to {-count}"
        )
