"""Pretrained speech encoders from a local folder in the format of Hugging Face."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from fedser.client.features.pretrained import (
    check_layer,
    device,
    fingerprint,
    package_version,
    prepare_torchaudio,
)
from fedser.common.arrays import Floats
from fedser.common.errors import UserError, brief

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
PROCESSORS = ("preprocessor", "processor")
WHISPER = "whisper"
MASKED = ("hubert", "wav2vec2", "wavlm")
"""Model types whose frames do not depend on padding, if they do not normalise over time."""
UNUSED = {"masked_spec_embed"}
"""Weights used only in training, which fine-tuned models may lack."""


@dataclass(frozen=True)
class HuggingFace:
    """Hidden states of wav2vec 2.0, HuBERT, WavLM and similar models, or of Whisper's encoder.

    The vector of a recording is the mean over its own frames, without frames of padding. A long
    recording fills several of Whisper's 30 s windows; the mean is over the real frames of all
    windows. With `frames`, the frames themselves are returned. Padding changes the frames of models
    that normalise over time (for example the base sizes) and of rare model types, so they get one
    recording at a time.

    Parameters
    ----------
    path : str
        Folder with ``config.json``, ``preprocessor_config.json`` and the weights.
    layer : int
        Index of the hidden state: 0 is the input of the first transformer layer, n the output of
        the n-th layer, -1 the output of the last layer.
    batch_size : int
        Largest number of recordings to encode at once.
    frames : int or None
        If given, return up to this number of frames per recording instead of their mean.
    """

    path: str
    layer: int
    batch_size: int
    frames: int | None = None
    side_by_side: ClassVar[bool] = False

    @cached_property
    def key(self) -> str:
        """Digest of the model's files, layer and package version.

        Raises
        ------
        UserError
            If the package or the folder is missing, the folder contains no model, or a number is
            below 1.
        """
        installed = package_version("transformers")
        folder = Path(self.path)
        weights = [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern))]
        if not (folder / "config.json").is_file() or not weights:
            raise UserError(
                f"features.path={self.path}: not a model folder: it must contain config.json, "
                f"preprocessor_config.json and {' or '.join(WEIGHTS)}"
            )
        for name in ("batch_size", "frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"features.{name}={value}: must be at least 1")
        digest = fingerprint([*sorted(folder.glob("*config.json")), *weights])
        frames = f"-{self.frames}frames" if self.frames else ""
        return f"huggingface-{digest}-layer{self.layer}-transformers{installed}{frames}"

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the training data of the model, in Hz."""
        return int(self._loaded[0].sampling_rate)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The processor of recordings and the encoder.

        Raises
        ------
        UserError
            If the folder cannot be read, lacks weights or contains another type of model.
        """
        from transformers import AutoFeatureExtractor, AutoModel, logging  # slow import

        prepare_torchaudio()
        logging.disable_progress_bar()
        local = {"local_files_only": True, "trust_remote_code": False}
        if not any((Path(self.path) / f"{name}_config.json").is_file() for name in PROCESSORS):
            raise UserError(
                f"features.path={self.path}: preprocessor_config.json, which defines the scaling "
                "of recordings, is missing: copy it from the model that this one was trained from"
            )
        try:
            processor = AutoFeatureExtractor.from_pretrained(self.path, **local)
            model, report = AutoModel.from_pretrained(
                self.path,
                **local,
                weights_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # the type depends on the file and the model
            raise UserError(
                f"features.path={self.path}: the model cannot be loaded ({brief(error)}): "
                "download it again"
            ) from error
        kind = model.config.model_type
        if not hasattr(model.config, "feat_extract_norm") and kind != WHISPER:
            raise UserError(
                f"features.path={self.path}: a model of type {kind} is not supported: use "
                "wav2vec 2.0, HuBERT, WavLM, a similar model or Whisper"
            )
        if missing := sorted(set(report["missing_keys"]) - UNUSED):
            raise UserError(
                f"features.path={self.path}: {len(missing)} weight(s) of the model are missing, "
                f"such as {missing[0]}: download it again"
            )
        encoder = model.get_encoder() if kind == WHISPER else model
        return processor, encoder.eval().to(device())

    def __call__(self, recordings: Sequence[Floats]) -> list[Floats]:
        """Return the mean hidden state (d,) of each recording, or its hidden states (t, d).

        Raises
        ------
        ValueError
            If a recording is shorter than one frame.
        """
        config = self._loaded[1].config
        kind, norm = config.model_type, getattr(config, "feat_extract_norm", None)
        batched = kind == WHISPER or (kind in MASKED and norm == "layer")
        size = len(recordings) if batched else 1
        with torch.inference_mode():
            return [
                found
                for start in range(0, len(recordings), size)
                for found in self._encode(recordings[start : start + size])
            ]

    def _encode(self, recordings: Sequence[Floats]) -> Iterator[Floats]:
        """Yield the features of recordings that are encoded as one batch."""
        processor, model = self._loaded
        whisper = model.config.model_type == WHISPER
        window = processor.n_samples if whisper else max(len(r) for r in recordings)
        pieces = [[r[i : i + window] for i in range(0, len(r), window)] for r in recordings]
        states = self._states([piece for own in pieces for piece in own])
        for own in pieces:
            frames = torch.cat([next(states) for _ in own])
            found = frames.mean(dim=0) if self.frames is None else frames[: self.frames]
            yield np.asarray(found.cpu().numpy())

    def _states(self, pieces: Sequence[Floats]) -> Iterator[torch.Tensor]:
        """Yield the hidden states (t, d) of each piece, without frames of padding."""
        processor, model = self._loaded
        whisper = model.config.model_type == WHISPER
        inputs = processor(
            pieces,
            sampling_rate=processor.sampling_rate,
            padding="max_length" if whisper else "longest",
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device())
        lengths = inputs["attention_mask"].sum(dim=1)
        if whisper:  # Whisper reads the whole window and halves the number of frames
            lengths = (lengths + 1) // 2
            del inputs["attention_mask"]
        else:
            convolutions = zip(model.config.conv_kernel, model.config.conv_stride, strict=True)
            for kernel, stride in convolutions:
                lengths = (lengths - kernel) // stride + 1
        if (lengths < 1).any():
            raise ValueError("shorter than one frame of the model")
        states = model(**inputs, output_hidden_states=True).hidden_states
        check_layer(self.layer, len(states))
        for frames, length in zip(states[self.layer], lengths.tolist(), strict=True):
            yield frames[:length]  # some model types pool further and have fewer frames
