"""What was learned from public speech: a projection of the features, and a first softmax layer."""

import json
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class PublicModel:
    """Projection of normalised features to k coordinates, and a softmax layer on them.

    It depends on public speech alone: it costs no privacy, and everybody may know it.

    Attributes
    ----------
    mean : ndarray of float32, shape (d,)
    directions : ndarray of float32, shape (d, k)
        Principal components of the public features. Each is scaled by how much of its variance the
        emotions explain: see `server.study.public`.
    head : dict of str to ndarray
        Weights of the softmax layer that was trained on public speech.
    digests : frozenset of str
        Hashes of the public recordings.
    """

    mean: Floats
    directions: Floats
    head: Arrays
    digests: frozenset[str]

    def project(self, features: Floats) -> Floats:
        """Return coordinates of norm `RADIUS`, shape (n, k), of normalised features (n, d).

        Raises
        ------
        UserError
            If the features have another dimension than the public ones.
        """
        if features.shape[1:] != self.mean.shape:
            raise UserError(
                f"the public model reads {len(self.mean)} features, and these are "
                f"{features.shape[-1]}: set the same features as for the public speech"
            )
        coordinates = (np.clip(features, -LIMIT, LIMIT) - self.mean) @ self.directions
        norms = np.linalg.norm(coordinates, axis=1, keepdims=True)
        return np.asarray(coordinates * (RADIUS / np.maximum(norms, 1e-12)), np.float32)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the projection; two models with the same projection are equal."""
        return sha256(self.mean.tobytes() + self.directions.tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Compare the projections."""
        return isinstance(other, PublicModel) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash the projection."""
        return hash(self.digest)

    def save(self, path: Path) -> None:
        """Write the model to a file that `load` reads."""
        arrays = {"mean": self.mean, "directions": self.directions, **self.head}
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
        return cls(arrays.pop("mean"), arrays.pop("directions"), arrays, digests)
