"""Pretrained encoders of speech from a local folder in Hugging Face's format."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from client.audio import Floats
from client.errors import UserError, brief
from client.pretrained import check_layer, device, fingerprint, prepare_torchaudio, release

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
WHISPER = "whisper"
MASKED = ("hubert", "wav2vec2", "wavlm")
"""Kinds that keep padding apart from frames, if they do not normalise over time."""
UNUSED = {"masked_spec_embed"}
"""Weights of training alone, which fine-tuned models may lack."""


@dataclass(frozen=True)
class HuggingFace:
    """Hidden states of wav2vec 2.0, HuBERT, WavLM and their kin, or of Whisper's encoder.

    A recording's vector is the mean over its own frames: those of padding do not count, and
    Whisper's 30 s windows, as many as a recording fills, are weighted by their real frames. Models
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
    """

    path: str
    layer: int
    batch_size: int
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
        if self.batch_size < 1:
            raise UserError(f"features.batch_size={self.batch_size} must be at least 1")
        digest = fingerprint([*sorted(folder.glob("*config.json")), *weights])
        return f"huggingface-{digest}-layer{self.layer}-transformers{installed}"

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
        try:
            processor = AutoFeatureExtractor.from_pretrained(self.path, **local)
            model, report = AutoModel.from_pretrained(
                self.path, **local, dtype=torch.float32, output_loading_info=True
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

    def __call__(self, recordings: Sequence[Floats]) -> Floats:
        """Return the mean hidden state of each recording.

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
            means = [
                self._means(recordings[start : start + size])
                for start in range(0, len(recordings), size)
            ]
        return np.concatenate(means)

    def _means(self, recordings: Sequence[Floats]) -> Floats:
        processor, model = self._loaded
        whisper = model.config.model_type == WHISPER
        window = processor.n_samples if whisper else max(len(r) for r in recordings)
        pieces = [r[i : i + window] for r in recordings for i in range(0, len(r), window)]
        owners = [n for n, r in enumerate(recordings) for _ in range(0, len(r), window)]
        frames, lengths = self._frames(pieces)
        real = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        sums = torch.where(real[..., None], frames, 0).sum(dim=1)
        owner = torch.tensor(owners, device=frames.device)
        means = sums.new_zeros(len(recordings), sums.shape[1]).index_add_(0, owner, sums)
        counts = lengths.new_zeros(len(recordings)).index_add_(0, owner, lengths)
        return np.asarray((means / counts[:, None]).cpu().numpy())

    def _frames(self, pieces: Sequence[Floats]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return frames (n, t, d) and how many of each row are not of padding, (n,)."""
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
        frames: torch.Tensor = states[self.layer]
        return frames, lengths.clamp(max=frames.shape[1])  # some kinds pool further
