"""Tiny random models, written by the library that reads them."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file

from fedser.client.features.audio import read_audio
from fedser.client.features.extract import extract
from fedser.client.features.huggingface import HuggingFace
from fedser.client.features.pretrained import prepare_torchaudio
from fedser.common.errors import UserError

prepare_torchaudio()
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
KINDS = {
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
    "hubert": (transformers.HubertConfig, transformers.HubertModel),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
    "data2vec": (transformers.Data2VecAudioConfig, transformers.Data2VecAudioModel),
}
FRAME = 400  # samples that the first frame of these models needs


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(length).normal(0.02, 0.1, length).astype(np.float32)


RECORDINGS = [noise(length) for length in (16000, FRAME, 7001, 12345, 719)]


def write_model(folder: Path, kind: str, norm: str = "layer", **changes: object) -> Path:
    torch.manual_seed(0)
    config, model = KINDS[kind]
    model(config(**{**SIZES, "feat_extract_norm": norm, **changes})).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def write_whisper(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        vocab_size=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_mean(kind, norm, tmp_path):
    folder = write_model(tmp_path, kind, norm)
    together = np.stack(HuggingFace(str(folder), -1, 8)(RECORDINGS))
    assert together.shape == (5, 16) and together.dtype == np.float32
    alone = [HuggingFace(str(folder), -1, 1)([recording])[0] for recording in RECORDINGS]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(together, axis=0).min() > 1e-3  # they do differ


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_a_vector_is_the_mean_of_a_hidden_state(layer, tmp_path):
    folder = write_model(tmp_path, "wav2vec2", do_stable_layer_norm=True)
    model = transformers.Wav2Vec2Model.from_pretrained(folder).eval()
    scaled = (RECORDINGS[2] - RECORDINGS[2].mean()) / np.sqrt(RECORDINGS[2].var() + 1e-7)
    with torch.no_grad():
        states = model(torch.from_numpy(scaled)[None], output_hidden_states=True).hidden_states
    assert states[layer].shape == (1, 21, 16)  # (7001 - 400) // 320 + 1 frames
    found = HuggingFace(str(folder), layer, 8)(RECORDINGS)[2]
    np.testing.assert_allclose(found, states[layer][0].numpy().mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2", "whisper"])
def test_the_mean_is_over_the_frames(kind, tmp_path):
    folder = write_whisper(tmp_path) if kind == "whisper" else write_model(tmp_path, kind)
    long = noise(16000 * 31)  # more than one window of Whisper's
    recordings = [RECORDINGS[0], long if kind == "whisper" else RECORDINGS[2], RECORDINGS[4]]
    lengths = [50, 1550, 3] if kind == "whisper" else [49, 21, 1]
    means = HuggingFace(str(folder), -1, 8)(recordings)
    frames = HuggingFace(str(folder), -1, 8, 2000)(recordings)
    assert [found.shape for found in frames] == [(length, 16) for length in lengths]
    for found, mean in zip(frames, means, strict=True):
        np.testing.assert_allclose(found.mean(axis=0), mean, atol=1e-5)
    cut = HuggingFace(str(folder), -1, 8, 20)
    for found, whole in zip(cut(recordings), frames, strict=True):
        np.testing.assert_array_equal(found, whole[:20])
    assert cut.key == f"{HuggingFace(str(folder), -1, 8).key}-20frames"
    with pytest.raises(UserError, match=r"features\.frames=0: must be at least 1"):
        _ = HuggingFace(str(folder), -1, 8, 0).key


def test_whisper_ignores_frames_of_padding(tmp_path):
    folder = write_whisper(tmp_path)
    long = noise(16000 * 31)
    found = HuggingFace(str(folder), -1, 8)([RECORDINGS[0], long, RECORDINGS[4]])
    extractor = transformers.WhisperFeatureExtractor()
    encoder = transformers.WhisperModel.from_pretrained(folder).get_encoder().eval()

    def frames(samples: np.ndarray) -> np.ndarray:
        mel = extractor(samples, sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            return encoder(mel).last_hidden_state[0].numpy()

    np.testing.assert_allclose(found[0], frames(RECORDINGS[0])[:50].mean(0), atol=1e-5)
    np.testing.assert_allclose(found[2], frames(RECORDINGS[4])[:3].mean(0), atol=1e-5)
    windows = [frames(long[:480000]), frames(long[480000:])[:50]]  # 30 s, and 1 s more
    np.testing.assert_allclose(found[1], np.concatenate(windows).mean(0), atol=1e-5)


def test_recordings_are_resampled_for_the_model(tmp_path):
    folder = write_model(tmp_path / "model", "hubert")
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    extractor = HuggingFace(str(folder), -1, 2)
    assert extractor.sampling_rate == 8000
    paths = [tmp_path / f"{rate}.wav" for rate in (8000, 16000, 44100)]
    for path, rate in zip(paths, (8000, 16000, 44100), strict=True):
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
        soundfile.write(path, np.stack([tone, tone], 1), rate, subtype="FLOAT")
    values = extract(extractor, paths, tmp_path / "cache").values
    np.testing.assert_allclose(values[0], extractor([read_audio(paths[0], 8000)])[0], atol=1e-5)
    np.testing.assert_allclose(values[1:], values[:1].repeat(2, 0), atol=5e-2)


def test_a_corpus_is_extracted_without_the_network(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    extractor = HuggingFace(str(write_model(tmp_path / "model", "wavlm")), -1, 2)
    lengths = [900, 16000, FRAME - 1, 3000, 16000, 0]
    paths = [tmp_path / f"{number}.wav" for number in range(6)]
    for path, length in zip(paths, lengths, strict=True):
        soundfile.write(path, noise(length), 16000, subtype="FLOAT")
    paths.append(tmp_path / "silent.wav")
    soundfile.write(paths[-1], np.zeros(4000), 16000)
    with pytest.raises(UserError, match=r"2\.wav: no features \(shorter than one frame .*1 more"):
        extract(extractor, paths, tmp_path / "cache")
    found = extract(extractor, paths, tmp_path / "cache", skip_bad=True)
    assert found.kept == [0, 1, 3, 4, 6] and found.skipped == [paths[2], paths[5]]
    alone = [extractor([read_audio(paths[n], 16000)])[0] for n in found.kept]
    np.testing.assert_allclose(found.values, alone, atol=1e-5)
    assert np.isfinite(found.values).all()  # of silence too


def test_the_key_depends_on_weights_settings_and_layer(tmp_path):
    folder = write_model(tmp_path / "model", "hubert")
    key = HuggingFace(str(folder), -1, 8).key
    assert HuggingFace(str(folder), -1, 4).key == key
    assert HuggingFace(str(folder), 1, 8).key != key
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("a model")
    assert HuggingFace(str(moved), -1, 8).key == key
    settings = json.loads((moved / "preprocessor_config.json").read_text())
    (moved / "preprocessor_config.json").write_text(json.dumps(settings | {"do_normalize": False}))
    other = HuggingFace(str(moved), -1, 8).key
    weights = load_file(moved / "model.safetensors")
    weights["encoder.layer_norm.bias"] += 1
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert len({key, other, HuggingFace(str(moved), -1, 8).key}) == 3


def test_unusable_models_are_rejected_in_one_line(tmp_path):
    def refused(folder: Path, message: str, layer: int = -1) -> None:
        extractor = HuggingFace(str(folder), layer, 8)
        with pytest.raises(UserError, match=message) as caught:
            _ = extractor.key
            extractor([noise(FRAME)])
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none", r"features\.path=\S*none: not a model folder: it must contain")
    model = write_model(tmp_path / "model", "wav2vec2")
    refused(model, r"features\.layer=3: the model has the hidden states 0 to 2", layer=3)
    (model / "preprocessor_config.json").rename(tmp_path / "preprocessor_config.json")
    refused(
        model, r"features\.path=\S*model: preprocessor_config\.json, .* is missing: copy it from"
    )
    (tmp_path / "preprocessor_config.json").rename(model / "preprocessor_config.json")
    weights = load_file(model / "model.safetensors")
    del weights["encoder.layers.1.final_layer_norm.bias"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    name = r"encoder\.layers\.1\.final_layer_norm\.bias"
    refused(model, rf"1 weight\(s\) of the model are missing, such as {name}")
    (model / "model.safetensors").write_bytes(b"broken")
    refused(model, "cannot be loaded")
    (model / "model.safetensors").unlink()
    refused(model, "not a model folder")
    text = tmp_path / "text"
    transformers.BertModel(
        transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    ).save_pretrained(text)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(text)
    refused(text, r"text: a model of type bert is not supported: use wav2vec 2\.0")
    with pytest.raises(UserError, match=r"features\.batch_size=0: must be at least 1"):
        _ = HuggingFace(str(write_model(tmp_path / "model", "wav2vec2")), -1, 0).key


def test_old_fine_tuned_files_give_the_same_features(tmp_path):
    folder = write_model(tmp_path, "wav2vec2")
    before = HuggingFace(str(folder), -1, 8)(RECORDINGS)
    weights = {f"wav2vec2.{k}": v for k, v in load_file(folder / "model.safetensors").items()}
    for number, old in enumerate(("weight_g", "weight_v")):  # their names before PyTorch 2
        stem = "wav2vec2.encoder.pos_conv_embed.conv"
        weights[f"{stem}.{old}"] = weights.pop(f"{stem}.parametrizations.weight.original{number}")
    weights["lm_head.weight"] = torch.ones(32, 16)
    weights.pop("wav2vec2.masked_spec_embed", None)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["Wav2Vec2ForCTC"]
    (folder / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(HuggingFace(str(folder), -1, 8)(RECORDINGS), before)
