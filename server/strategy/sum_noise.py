"""The noise on the sums of successive rounds, and its state between two rounds."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedser.client.privacy.rounded_gaussian import gaussian_integers
from fedser.common.arrays import Ints
from fedser.common.errors import UserError
from fedser.common.files import write_synced
from fedser.common.seeds import NoiseSource
from fedser.server.privacy.matrix_factorization import RESOLUTION, Coefficients

STATE = "noise.safetensors"


class SumNoise:
    """Draw the noise of one round after another; see `server.privacy.matrix_factorization`.

    Noise is computed in integers: ``xi_t = round(w_t - c_1 xi_{t-1} - ... - c_{b-1} xi_{t-b+1})``.
    The Gaussian w_t is a multiple of 1 / RESOLUTION, because the coefficients are. Each released
    sum can then be computed from ``C x + w`` and from the sums released before it. It reveals no
    more than continuous Gaussian noise would.

    Parameters
    ----------
    sizes : mapping of str to int
        Number of coordinates of each parameter that gets noise.
    coefficients : tuple of float
        Starts with c_0 = 1.
    folder : Path or None
        Keeps the state of correlated noise. Each round's noise is on the disk before it is used, so
        that an interrupted run neither forgets it nor draws it again.
    federation : str
        Digest of the federation that the noise belongs to.

    Attributes
    ----------
    drawn : int
        Number of turns that have their noise; 0 if noise is independent.

    Raises
    ------
    UserError
        If the state in the folder is damaged or belongs to other noise.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        coefficients: Coefficients,
        folder: Path | None,
        federation: str = "",
    ) -> None:
        self._sizes, self._federation = dict(sizes), federation
        self._factors = [round(c * RESOLUTION) for c in coefficients[1:]]
        self._path = folder / STATE if folder and self._factors else None
        self._past: dict[str, list[Ints]] = {name: [] for name in sizes}  # latest first
        self.drawn = 0
        if self._path and self._path.exists():
            self._load(self._path)

    def draw(self, turn: int, stddev: float, noise: NoiseSource) -> dict[str, Ints]:
        """Draw the noise of a turn. First draw that of earlier turns that have none yet.

        Parameters
        ----------
        turn : int
            Number of the attempt among the attempts of all rounds, from 1.
        stddev : float
            Standard deviation of w in steps of the grid.

        Raises
        ------
        ValueError
            If the noise of this turn was drawn before: a second sum with other noise, or with the
            same noise, would reveal more than accounted for.
        """
        if not self._factors:
            return {n: gaussian_integers(size, stddev, noise) for n, size in self._sizes.items()}
        if turn <= self.drawn:
            raise ValueError(f"the noise of turn {turn} was drawn before")
        while self.drawn < turn:
            drawn = {name: self._next(name, stddev, noise) for name in self._sizes}
            self.drawn += 1
        self._save()
        return drawn

    def _next(self, name: str, stddev: float, noise: NoiseSource) -> Ints:
        past = self._past[name]
        total = gaussian_integers(self._sizes[name], stddev * RESOLUTION, noise)
        for factor, earlier in zip(self._factors, past, strict=False):
            total -= factor * earlier
        drawn: Ints = (total + RESOLUTION // 2) // RESOLUTION
        self._past[name] = [drawn, *past][: len(self._factors)]
        return drawn

    def _save(self) -> None:
        if self._path is None:
            return
        arrays = {name: np.stack(past) for name, past in self._past.items()}
        header = {"drawn": self.drawn, **self._identity()}
        write_synced(self._path, save(arrays, {"noise": json.dumps(header)}))

    def _identity(self) -> dict[str, object]:
        """Return what the noise was made for; another state is rejected."""
        return {
            "factors": self._factors,
            "sizes": self._sizes,
            "federation": self._federation,
        }

    def _load(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads(file.metadata()["noise"])
                past = {name: list(file.get_tensor(name)) for name in self._sizes}
            drawn = int(header["drawn"])
        except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged; start the run anew") from error
        if header != {"drawn": drawn, **self._identity()}:
            raise UserError(f"{path}: noise of another federation; start the run anew")
        self.drawn, self._past = drawn, past
