"""What was learned from public speech: a projection of the features, and a first softmax layer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from fedser.common.arrays import Arrays, Floats
from fedser.common.errors import UserError
from fedser.common.files import replacing

LIMIT: Final = 6.0
"""Normalised features beyond this number of standard deviations are cut off."""
RADIUS: Final = 3.0
"""Norm of a projected utterance. The input of the bias is 1, so the bias moves an update by a
tenth of its squared norm, and the rest of the clipping norm is left to the weights."""


def activations(features: Floats, hidden: Arrays) -> Floats:
    """Return the last hidden units (n, h) of normalised features (n, d), cut off at `LIMIT`.

    Parameters
    ----------
    hidden : dict of str to ndarray
        As in `PublicModel`; without layers the result is the features.
    """
    values = np.clip(features, -LIMIT, LIMIT)
    for number in range(len(hidden) // 2):
        weight, bias = (hidden[f"hidden.{number}.{kind}"] for kind in ("weight", "bias"))
        values = np.maximum(values @ weight.T + bias, 0)
    return values


@dataclass(frozen=True, eq=False)
class PublicModel:
    """Projection of normalised features to k coordinates, and a softmax layer on them.

    The projection is linear, or linear in the last hidden units of a public network.

    It depends on public speech alone: it costs no privacy, and everybody may know it.

    Attributes
    ----------
    mean : ndarray of float32, shape (h,)
    directions : ndarray of float32, shape (h, k)
        Principal components of the public features, or of the h hidden units. Each is scaled by how
        much of its variance the emotions explain: see `server.study.public`.
    head : dict of str to ndarray
        Weights of the softmax layer that was trained on public speech.
    digests : frozenset of str
        Hashes of the public recordings.
    hidden : dict of str to ndarray
        Weights and biases of the hidden layers, ``hidden.0.weight``, ``hidden.0.bias``, ...; empty
        if the features themselves are projected.
    """

    mean: Floats
    directions: Floats
    head: Arrays
    digests: frozenset[str]
    hidden: Arrays = field(default_factory=dict)

    @property
    def dimension(self) -> int:
        """Number of features d that it reads."""
        return int(self.hidden["hidden.0.weight"].shape[1]) if self.hidden else len(self.mean)

    @property
    def projection(self) -> Arrays:
        """The arrays of the projection by their names: all that a node needs."""
        return {"mean": self.mean, "directions": self.directions, **self.hidden}

    def project(self, features: Floats) -> Floats:
        """Return coordinates of norm `RADIUS`, shape (n, k), of normalised features (n, d).

        Raises
        ------
        UserError
            If the features have another dimension than the public ones.
        """
        if features.shape[1:] != (self.dimension,):
            raise UserError(
                f"the public model reads {self.dimension} features, and these are "
                f"{features.shape[-1]}: set the same features as for the public speech"
            )
        coordinates = (activations(features, self.hidden) - self.mean) @ self.directions
        norms = np.linalg.norm(coordinates, axis=1, keepdims=True)
        return np.asarray(coordinates * (RADIUS / np.maximum(norms, 1e-12)), np.float32)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the projection; two models with the same projection are equal."""
        arrays = (array for _, array in sorted(self.projection.items()))
        return sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Compare the projections."""
        return isinstance(other, PublicModel) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash the projection."""
        return hash(self.digest)

    def save(self, path: Path) -> None:
        """Write the model to a file that `load` reads."""
        arrays = {**self.projection, **self.head}
        # safetensors writes the memory of an array as it lies, whatever its order is.
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        metadata = {"digests": json.dumps(sorted(self.digests))}
        with replacing(path) as partial:
            partial.write_bytes(save(arrays, metadata))

    @classmethod
    def load(cls, path: Path) -> "PublicModel":
        """Read a file that `save` wrote."""
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digests = frozenset(json.loads(file.metadata()["digests"]))
        return cls.of(arrays, digests)

    @classmethod
    def of(cls, arrays: Mapping[str, Floats], digests: frozenset[str]) -> "PublicModel":
        """Build a model from the arrays of its projection and of its softmax layer."""
        hidden = {name: array for name, array in arrays.items() if "hidden" in name}
        head = {name: array for name, array in arrays.items() if "dense" in name}
        return cls(arrays["mean"], arrays["directions"], head, digests, hidden)
