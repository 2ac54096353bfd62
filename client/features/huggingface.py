"""Pretrained encoders of speech from a local folder in Hugging Face's format."""

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
    prepare_torchaudio,
    release,
)
from fedser.common.arrays import Floats
from fedser.common.errors import UserError, brief

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
PROCESSORS = ("preprocessor", "processor")
WHISPER = "whisper"
MASKED = ("hubert", "wav2vec2", "wavlm")
"""Kinds that keep padding apart from frames, if they do not normalise over time."""
UNUSED = {"masked_spec_embed"}
"""Weights of training alone, which fine-tuned models may lack."""


@dataclass(frozen=True)
class HuggingFace:
    """Hidden states of wav2vec 2.0, HuBERT, WavLM and their kin, or of Whisper's encoder.

    A recording's vector is the mean over its own frames: those of padding do not count, and
    Whisper's 30 s windows, as many as a recording fills, are weighted by their real frames. With
    `frames` it is these frames themselves. Models
    of which padding would change other frames (those that normalise over time, as the base sizes
    do, and rarer kinds) take one recording after another.

    Parameters
    ----------
    path : str
        Folder with ``config.json``, ``preprocessor_config.json`` and the weights.
    layer : int
        Which hidden state: 0 enters the first transformer layer, n leaves the n-th, -1 the last.
    batch_size : int
        Recordings that are encoded at once, at most.
    frames : int or None
        Frames of a recording, at most, which are then not averaged.
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
            If the package or the folder is missing, or the folder holds no model.
        """
        installed = release("transformers")
        folder = Path(self.path)
        weights = [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern))]
        if not (folder / "config.json").is_file() or not weights:
            raise UserError(
                f"features.path={self.path} is no folder of a model: it must hold config.json, "
                f"preprocessor_config.json and {' or '.join(WEIGHTS)}"
            )
        for name in ("batch_size", "frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"features.{name}={value} must be at least 1")
        digest = fingerprint([*sorted(folder.glob("*config.json")), *weights])
        frames = f"-{self.frames}frames" if self.frames else ""
        return f"huggingface-{digest}-layer{self.layer}-transformers{installed}{frames}"

    @property
    def sampling_rate(self) -> int:
        """That of the recordings that the model was trained on, in Hz."""
        return int(self._loaded[0].sampling_rate)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The feature extractor and the encoder; they go with this object.

        Raises
        ------
        UserError
            If the folder cannot be read, or holds another kind of model.
        """
        from transformers import AutoFeatureExtractor, AutoModel, logging  # two seconds

        prepare_torchaudio()
        logging.disable_progress_bar()
        local = {"local_files_only": True, "trust_remote_code": False}
        if not any((Path(self.path) / f"{name}_config.json").is_file() for name in PROCESSORS):
            raise UserError(
                f"features.path={self.path} has no preprocessor_config.json, which tells how to "
                "scale recordings: copy that of the model from which this one was trained"
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
        except Exception as error:  # various types, for each file and kind of model
            raise UserError(
                f"features.path={self.path} cannot be loaded ({brief(error)})"
            ) from error
        kind = model.config.model_type
        if not hasattr(model.config, "feat_extract_norm") and kind != WHISPER:
            raise UserError(
                f"features.path={self.path} is a model of type {kind}: expected wav2vec 2.0, "
                "HuBERT, WavLM, one of their kin, or Whisper"
            )
        if missing := sorted(set(report["missing_keys"]) - UNUSED):
            raise UserError(
                f"features.path={self.path} lacks {len(missing)} of the model's weights, "
                f"{missing[0]} among them"
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
        together = kind == WHISPER or (kind in MASKED and norm == "layer")
        size = len(recordings) if together else 1
        with torch.inference_mode():
            return [
                found
                for start in range(0, len(recordings), size)
                for found in self._encode(recordings[start : start + size])
            ]

    def _encode(self, recordings: Sequence[Floats]) -> Iterator[Floats]:
        """Encode recordings at once."""
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
        """Yield the hidden states (t, d) of each piece, without those of padding."""
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
        if whisper:  # it sees its whole window, and halves the number of frames
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
            yield frames[:length]  # some kinds pool further, and have fewer
