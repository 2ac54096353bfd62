"""Shadow federations: their speakers, labels, noise and place in the cache."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2

from fedser.attacks.adversary import shadow_federations as shadow
from fedser.client.app import app as client_app
from fedser.client.privacy.base import NoMechanism
from fedser.client.speakers.clients import join_clients, make_clients, whole_speakers
from fedser.common.errors import UserError
from fedser.server.grids.local import LocalGrid
from fedser.server.privacy.plan import PrivacyConfig
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import Transcript
from tests.examples import LAYERED, LOCAL, UDP, corpus, protocol


def test_private_recordings_in_a_shadow_corpus_are_rejected():
    private, other = corpus("private"), corpus("other", seed=1)
    shadow.reject_overlap(private, [other])
    renamed = replace(other, digests=[*other.digests[1:], private.digests[5]])
    with pytest.raises(UserError, match=r"shadow: other shares 1 recording\(s\) with the private"):
        shadow.reject_overlap(private, [renamed])


def test_classes_need_two_values_and_one_for_each_speaker():
    assert shadow.attribute_classes([corpus()], "gender") == ["female", "male"]
    with pytest.raises(
        UserError, match=r"adversary\.attribute=age: corpus made lacks it for speaker"
    ):
        shadow.attribute_classes([corpus()], "age")
    with pytest.raises(UserError, match=r"takes 1 value\(s\) .*female.*two are needed"):
        shadow.attribute_classes([corpus(speakers=1)], "gender")


def study(tmp_path, **changes):
    from hydra import compose, initialize_config_module

    from fedser.server.study.run import study_config

    overrides = [f"{key}={value}" for key, value in changes.items()]
    with initialize_config_module("fedser.conf", version_base="1.3"):
        return study_config(compose("config", overrides=[f"cache={tmp_path}", *overrides]))


def federations_for(config, data, tmp_path, privacy=None, num_clients=8):
    """Return shadow federations for victims under a mechanism."""
    plan = protocol(privacy=privacy, num_clients=num_clients).plan
    return shadow.shadow_federations(config, data, plan, tmp_path)


def test_federations_leave_out_speakers_and_know_each_client(tmp_path):
    data = [corpus("a"), corpus("b", speakers=5, shards=2, seed=1)]
    made = federations_for(study(tmp_path), data, tmp_path)
    assert [f.name for f in made] == [f"shadow-{i}" for i in range(5)]
    names = shadow.speaker_names(data)
    labels = shadow.speaker_labels(data, "gender", ["female", "male"])
    for federation in made:
        own = federation.clients
        assert len(own) == 8 + 2 * 4
        assert federation.protocol.plan.config == PrivacyConfig()
        numbers = shadow.speaker_numbers(own, data)
        assert [names[n] for n in numbers] == [
            f"{c}/{s}" for c, s in zip(own.corpora, own.speakers, strict=True)
        ]
        assert labels[numbers].tolist() == [int(name[1:]) % 2 for name in own.speakers]
    trained = [set(zip(f.clients.corpora, f.clients.speakers, strict=True)) for f in made]
    assert set.union(*trained) == {("a", s) for s in data[0].speakers} | {
        ("b", s) for s in data[1].speakers
    }
    assert len({frozenset(t) for t in trained}) == 5


def test_speakers_are_numbered_over_corpora_or_are_classes():
    data = [corpus("a", speakers=3), corpus("b", speakers=2, shards=2, seed=1)]
    names = ["a/s00", "a/s01", "a/s02", "b/s00", "b/s01"]
    assert shadow.speaker_names(data) == shadow.attribute_classes(data, "speaker") == names
    assert shadow.speaker_labels(data, "speaker", names).tolist() == [0, 1, 2, 3, 4]
    assert shadow.speaker_labels(data, "gender", ["female", "male"]).tolist() == [0, 1, 0, 0, 1]
    assert shadow.speaker_labels(data, "gender", ["male", "female"]).tolist() == [1, 0, 1, 1, 0]
    whole = whole_speakers(data, 0, "speaker")
    assert shadow.speaker_numbers(whole, data).tolist() == [0, 1, 2, 3, 4]  # in one client each
    parts = [make_clients(d, d.speakers, 0, "speaker") for d in data]
    split = shadow.speaker_numbers(join_clients(parts), data)
    assert sorted(split.tolist()) == [0, 1, 2, 3, 3, 4, 4]


FIXED = replace(LOCAL, epsilon=None, noise_multiplier=1.7)


@pytest.mark.parametrize(
    "privacy", [LOCAL, FIXED, LAYERED, UDP, replace(LOCAL, stop_at_epsilon=8.0)]
)
def test_only_aware_federations_add_the_victims_noise(tmp_path, privacy):
    data = [corpus("a"), corpus("b", seed=1)]
    victims = protocol(privacy=privacy).plan.client_mechanism()
    for federation in federations_for(study(tmp_path), data, tmp_path, privacy):
        plan = federation.protocol.plan
        assert plan.config == PrivacyConfig() and plan.client_mechanism() == NoMechanism()
    aware = federations_for(study(tmp_path, **{"adversary.aware": True}), data, tmp_path, privacy)
    for federation in aware:
        plan = federation.protocol.plan
        assert plan.num_clients == len(federation.clients) == 16
        own = plan.client_mechanism()
        assert own == victims
        assert plan.config.stop_at_epsilon is None  # as many rounds as the victims, at any epsilon


@pytest.mark.parametrize("privacy", [replace(FIXED, clipping_norm=1e3), UDP])
def test_aware_updates_have_the_noise_of_victims(tmp_path, privacy):
    """Compare the transcripts with those of the same federation without noise."""
    sent = {}
    for aware in (True, False):
        changes = {"adversary.aware": aware, "transcript.dtype": "float32", "rounds": 1}
        config = study(tmp_path, **changes, cohort_fraction=1.0, folds="[0]")
        plan = protocol(1, 1.0, privacy=privacy).plan
        first, *_ = shadow.shadow_federations(config, [corpus("a")], plan, tmp_path)
        federate(LocalGrid(client_app), first, tmp_path, "cpu")
        (sent[aware],) = Transcript(first.folder)
    noise = sent[True].arrays["dense.0.weight"] - sent[False].arrays["dense.0.weight"]
    if privacy is UDP:  # (2 C / n) sqrt(2 q T ln(1 / delta)) / epsilon, of ten utterances
        stddev = 2 * 0.25 / 10 * math.sqrt(2 * math.log(1 / 0.5)) / 5
    else:  # nothing is clipped
        stddev = 1.7 * 2 * 1e3
    low, high = chi2.ppf([1e-4, 1 - 1e-4], noise[0].size)
    for drawn in noise.astype(np.float64):
        assert low < np.square(drawn / stddev).sum() < high


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"rounds": 7}, {"normalisation": "corpus"}, {"training.epochs": 2}]
)
def test_the_cache_name_depends_on_what_sets_a_transcript(tmp_path, change):
    data = [corpus("a")]
    first = federations_for(study(tmp_path), data, tmp_path)
    again = federations_for(study(tmp_path, privacy="udp"), data, tmp_path, UDP)
    other = federations_for(study(tmp_path, **change), data, tmp_path)
    assert [f.folder for f in first] == [f.folder for f in again]  # only victims have the mechanism
    assert not {f.folder for f in first} & {f.folder for f in other}


def test_the_cache_name_depends_on_a_custom_mechanisms_code(tmp_path, monkeypatch):
    code = tmp_path / "negation.py"
    code.write_text(
        "from dataclasses import dataclass\n"
        "from fedser.client.privacy.base import NoMechanism\n"
        "@dataclass(frozen=True)\n"
        "class Negation(NoMechanism): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    privacy = PrivacyConfig(mechanism="custom", custom={"_target_": "negation.Negation"})
    folders = []
    for aware in (True, False):
        for line in ("", "# another rule\n"):
            code.write_text(code.read_text() + line)
            config = study(tmp_path, **{"adversary.aware": aware})
            folders.append(federations_for(config, [corpus("a")], tmp_path, privacy)[0].folder)
    first, changed, *plain = folders
    assert first != changed
    assert plain[0] == plain[1]  # without aware there is no mechanism


def test_only_complete_transcripts_enter_the_cache(tmp_path):
    made = federations_for(study(tmp_path), [corpus("a")], tmp_path)
    absent = shadow.missing(made)
    assert len(absent) == 5
    for federation in absent:
        assert federation.folder.parent == tmp_path / "shadow"
        federation.folder.mkdir(parents=True)
        (federation.folder / "meta.json").write_text("{}")
    assert shadow.missing(made) == shadow.missing(made) != []
    shadow.keep(absent)
    assert shadow.missing(made) == []
    assert all((f.folder / "meta.json").exists() for f in made)
    assert not list((tmp_path / "shadow").glob("*.part"))
