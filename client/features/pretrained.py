"""Shared functions of the pretrained speech encoders."""

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


def package_version(package: str) -> str:
    """Return the version of an optional package.

    Raises
    ------
    UserError
        If the package is not installed; the message gives the command that installs it.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise UserError(
            f"features: the package {package} is not installed: run pip install 'fedser[encoders]'"
        ) from error


def prepare_torchaudio() -> None:
    """Import torchaudio; if its compiled part does not load, import it without this part.

    transformers and s3prl import torchaudio but use only its Python code. The package on PyPI is
    compiled for CUDA and does not load with a PyTorch build without CUDA.
    """
    with contextlib.suppress(ImportError):
        try:
            importlib.import_module("torchaudio")
        except (OSError, RuntimeError):  # CUDA library missing or of another version
            stub = ModuleType("torchaudio._extension")
            stub.__dict__["_IS_TORCHAUDIO_EXT_AVAILABLE"] = False
            stub.__dict__["fail_if_no_align"] = lambda function: function
            sys.modules[stub.__name__] = stub
            importlib.import_module("torchaudio")


def fingerprint(files: Iterable[Path]) -> str:
    """Return the first 16 hexadecimal digits of a digest of the contents of the files, in order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_layer(layer: int, count: int) -> None:
    """Reject a layer that a model with `count` hidden states does not have.

    Raises
    ------
    UserError
        If the layer does not exist; the message names the key and the layers.
    """
    if not -count <= layer < count:
        raise UserError(
            f"features.layer={layer}: the model has the hidden states 0 to {count - 1}, "
            f"or -1 to {-count} from the end"
        )
