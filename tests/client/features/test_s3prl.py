"""Tiny checkpoints in the format of s3prl, read by the package itself."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fedser.client.features.extract import extract
from fedser.client.features.pretrained import prepare_torchaudio
from fedser.client.features.s3prl import UPSTREAMS, S3prl
from fedser.common.errors import UserError

prepare_torchaudio()

KALDI = {"feat_type": "fbank", "feat_dim": 20}
VQ = {"codebook_size": [8], "code_dim": [6], "gumbel_temperature": 0.5}
APC = {"hidden_size": 6, "num_layers": 3, "dropout": 0.1, "residual": True}
NPC = {
    "hidden_size": 6,
    "n_blocks": 2,
    "dropout": 0.1,
    "residual": True,
    "kernel_size": 9,
    "mask_size": 3,
}
MEL = {"feat_type": "mel", "channel": 0, "log": True, "delta": 0, "cmvn": True}
TERA = {
    "transformer": {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "share_layer": False,
        "pre_layer_norm": False,
    },
    "task": {"sequence_length": 1500},
    "audio": {"n_mels": 20, "target_level": -25, "input": MEL, "target": MEL},
}


@pytest.fixture(autouse=True)
def small_decoar2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is not in the checkpoint but in the package: twelve layers, 360 MB."""
    sizes = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 16}
    for name, value in {**sizes, "encoder_attention_heads": 2}.items():
        monkeypatch.setitem(import_module("s3prl.upstream.decoar2.decoar2").args, name, value)


def checkpoint(upstream: str, path: Path) -> Path:
    """Write a model that was drawn, not trained."""
    torch.manual_seed(3)
    if upstream == "tera":
        module = import_module("s3prl.upstream.mockingjay.model")
        model = module.TransformerModel(module.TransformerConfig(TERA["transformer"]), 20)
        torch.save({"Config": TERA, "Transformer": model.state_dict()}, path)
    elif upstream == "decoar2":
        model = import_module("s3prl.upstream.decoar2.decoar2").Decoar2()
        torch.save({"model": model.state_dict()}, path)
    else:
        kind = "NPC" if upstream == "npc" else "APC"
        settings = {**(NPC if upstream == "npc" else APC), "vq": VQ if upstream != "apc" else None}
        model = getattr(import_module(f"s3prl.upstream.{kind.lower()}.{kind.lower()}"), kind)
        config = {"data": {"audio": dict(KALDI)}, "model": {"paras": settings}}
        torch.save({"config": config, "model": model(20, **settings).state_dict()}, path)
    return path


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)


@pytest.mark.parametrize(
    ("upstream", "dimension", "states"),
    [("apc", 6, 3), ("vq_apc", 6, 3), ("npc", 6, 5), ("tera", 12, 3), ("decoar2", 32, 3)],
)
def test_features_are_means_of_the_states_of_s3prl(upstream, dimension, states, tmp_path):
    path = checkpoint(upstream, tmp_path / "model.ckpt")
    expert = import_module(f"s3prl.upstream.{UPSTREAMS[upstream]}.expert")
    model = expert.UpstreamExpert(str(path)).eval()
    recordings = [noise(16000), noise(7000)]
    with torch.no_grad():
        expected = [model([torch.from_numpy(r)])["hidden_states"] for r in recordings]
    assert len(expected[0]) == states
    for layer in (-1, 0):
        means = np.stack([hidden[layer][0].numpy().mean(axis=0) for hidden in expected])
        found = S3prl(upstream, str(path), layer)(recordings)
        assert found.shape == (2, dimension)
        np.testing.assert_allclose(found, means, atol=1e-5)
    with pytest.raises(UserError, match=rf"features\.layer={states}: .* 0 to {states - 1}"):
        S3prl(upstream, str(path), states)(recordings)


def test_apc_matches_its_recurrent_layers(tmp_path):
    path = checkpoint("apc", tmp_path / "model.ckpt")
    samples = torch.from_numpy(noise(16000))[None]
    kaldi = import_module("torchaudio.compliance.kaldi")
    bank = kaldi.fbank(samples, num_mel_bins=20, sample_frequency=16000, window_type="hamming")
    frames = (bank - bank.mean(0)) / (bank.std(0) + 1e-10)
    weights = torch.load(path)["model"]
    for number in range(3):
        layer = torch.nn.GRU(frames.shape[1], 6, batch_first=True)
        own = {
            k.split(".")[2]: v for k, v in weights.items() if k.startswith(f"rnn_layers.{number}.")
        }
        layer.load_state_dict(own)
        with torch.no_grad():
            out = layer(frames[None])[0][0]
        frames = out + frames if number else out
    expected = frames.mean(dim=0).numpy()
    np.testing.assert_allclose(
        S3prl("apc", str(path), -1)([samples[0].numpy()])[0], expected, atol=1e-5
    )


def test_the_key_depends_on_weights_layer_and_upstream(tmp_path):
    path = checkpoint("apc", tmp_path / "a.ckpt")
    key = S3prl("apc", str(path), -1).key
    moved = path.rename(tmp_path / "b.ckpt")
    assert S3prl("apc", str(moved), -1).key == key
    assert S3prl("vq_apc", str(moved), -1).key != key != S3prl("apc", str(moved), 0).key
    moved.write_bytes(moved.read_bytes() + b"x")
    assert S3prl("apc", str(moved), -1).key != key


def test_unusable_checkpoints_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"features\.checkpoint=\S*none: file not found"):
        _ = S3prl("apc", str(tmp_path / "none"), -1).key
    with pytest.raises(UserError, match=r"features\.upstream=cpc is not one of apc, vq_apc, npc"):
        _ = S3prl("cpc", str(tmp_path), -1).key
    apc = str(checkpoint("apc", tmp_path / "apc.ckpt"))
    with pytest.raises(UserError, match=r"apc\.ckpt: cannot be read as features\.upstream=tera"):
        S3prl("tera", apc, -1)([noise(16000)])
    with pytest.raises(UserError, match=r"apc\.ckpt: weights of .*upstream=decoar2 are missing"):
        S3prl("decoar2", apc, -1)([noise(16000)])
    (tmp_path / "text").write_text("not weights")
    with pytest.raises(UserError, match=r"text: cannot be read as features\.upstream=npc"):
        S3prl("npc", str(tmp_path / "text"), -1)([noise(16000)])


def test_a_recording_shorter_than_a_window_is_rejected(tmp_path):
    extractor = S3prl("apc", str(checkpoint("apc", tmp_path / "apc.ckpt")), -1)
    short, silent, good = tmp_path / "short.wav", tmp_path / "silent.wav", tmp_path / "good.wav"
    for path, samples in ((short, noise(399)), (silent, np.zeros(8000)), (good, noise(8000))):
        soundfile.write(path, samples, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"short\.wav: no features \(.*window size 400"):
        extract(extractor, [good, short], tmp_path / "cache")
    found = extract(extractor, [good, short, silent], tmp_path / "cache", skip_bad=True)
    assert found.kept == [0, 2] and found.skipped == [short]
    np.testing.assert_allclose(found.values[0], extractor([noise(8000)])[0], atol=1e-6)
