"""Pretrained speech encoders of s3prl: APC, VQ-APC, NPC, TERA and DeCoAR 2.0."""

import contextlib
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.serialization import safe_globals

from fedser.client.features.pretrained import (
    check_layer,
    device,
    fingerprint,
    package_version,
    prepare_torchaudio,
)
from fedser.common.arrays import Floats
from fedser.common.errors import UserError, brief, check_choice

UPSTREAMS = {"apc": "apc", "vq_apc": "apc", "npc": "npc", "tera": "tera", "decoar2": "decoar2"}
"""Names in ``features.upstream``, with the packages of s3prl that contain the encoders."""


@dataclass(frozen=True)
class S3prl:
    """Hidden states of an upstream of s3prl (Yang et al., 2021), averaged over time.

    It encodes one recording at a time, because NPC's convolutions would read the padding of a
    batch.

    Parameters
    ----------
    upstream : str
        A key of `UPSTREAMS`.
    checkpoint : str
        File with the weights, in the format of s3prl; a file that contains code is rejected.
    layer : int
        Index of the hidden state in the output of s3prl; -1 is the last.
    """

    upstream: str
    checkpoint: str
    layer: int
    sampling_rate: ClassVar[int] = 16000
    batch_size: ClassVar[int] = 1
    side_by_side: ClassVar[bool] = False
    frames: ClassVar[None] = None

    @cached_property
    def key(self) -> str:
        """Upstream, digest of the checkpoint, layer and package version.

        Raises
        ------
        UserError
            If the package or the file is missing, or the upstream is unknown.
        """
        check_choice("features.upstream", self.upstream, UPSTREAMS)
        installed = package_version("s3prl")
        if not Path(self.checkpoint).is_file():
            raise UserError(
                f"features.checkpoint={self.checkpoint}: file not found: docs/features.md lists "
                "where to download checkpoints"
            )
        digest = fingerprint([Path(self.checkpoint)])
        return f"s3prl-{self.upstream}-{digest}-layer{self.layer}-s3prl{installed}"

    @cached_property
    def _model(self) -> Any:
        """The upstream model.

        Raises
        ------
        UserError
            If the checkpoint cannot be read, or does not set all weights. s3prl silently loads
            checkpoints of another upstream, so two models with different random weights are
            loaded and compared.
        """
        noise = torch.randn(self.sampling_rate, generator=torch.Generator().manual_seed(0))
        first, second = self._load(0), self._load(1)
        if not torch.equal(self._states(first, noise)[-1], self._states(second, noise)[-1]):
            raise UserError(
                f"features.checkpoint={self.checkpoint}: weights of features.upstream="
                f"{self.upstream} are missing: set features.upstream to the checkpoint's model"
            )
        return first

    def _load(self, seed: int) -> Any:
        prepare_torchaudio()
        expert = import_module(f"s3prl.upstream.{UPSTREAMS[self.upstream]}.expert")
        with torch.random.fork_rng(), contextlib.redirect_stdout(None), safe_globals([Namespace]):
            torch.manual_seed(seed)
            try:
                # Some calls in s3prl lack weights_only, so the file is checked here first.
                torch.load(self.checkpoint, map_location="cpu", weights_only=True)
                return expert.UpstreamExpert(self.checkpoint).eval().to(device())
            except Exception as error:  # the type depends on the upstream and the defect
                raise UserError(
                    f"features.checkpoint={self.checkpoint}: cannot be read as features.upstream="
                    f"{self.upstream} ({type(error).__name__}: {brief(error)}): correct one of them"
                ) from error

    def _states(self, model: Any, samples: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the hidden states of one recording, each of shape (1, t, d)."""
        with torch.inference_mode():
            states: Sequence[torch.Tensor] = model([samples.to(device())])["hidden_states"]
        check_layer(self.layer, len(states))
        return states

    def __call__(self, recordings: Sequence[Floats]) -> Floats:
        """Return the mean hidden state of each recording."""
        means = [
            self._states(self._model, torch.from_numpy(recording))[self.layer].mean(dim=1)
            for recording in recordings
        ]
        return np.asarray(torch.cat(means).cpu().numpy())
