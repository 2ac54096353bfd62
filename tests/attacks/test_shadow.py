from dataclasses import replace
from pathlib import Path

import pytest

import attacks
from attacks import shadow
from client.errors import UserError
from server.plan import PrivacyConfig
from tests.examples import corpus

PACKAGE = Path(attacks.__file__).parent


def test_victims_labels_are_read_in_one_place_alone():
    readers = [
        p.name
        for p in PACKAGE.glob("*.py")
        if "read_parquet" in p.read_text() and "truth" in p.read_text()
    ]
    assert readers == ["evaluate.py"]
    sources = [p for p in PACKAGE.glob("*.py") if "_truth" in p.read_text()]
    assert [p.name for p in sources] == ["evaluate.py"]


def test_private_recordings_in_a_shadow_corpus_are_refused():
    private, other = corpus("private"), corpus("other", seed=1)
    shadow.refuse_overlap(private, [other])
    renamed = replace(other, digests=[*other.digests[1:], private.digests[5]])
    with pytest.raises(UserError, match=r"shadow: other shares 1 recording\(s\) with the private"):
        shadow.refuse_overlap(private, [renamed])


def test_classes_need_two_values_that_every_speaker_states():
    assert shadow.attribute_classes([corpus()], "gender") == ["female", "male"]
    with pytest.raises(
        UserError, match=r"adversary\.attribute=age: corpus made does not say it of"
    ):
        shadow.attribute_classes([corpus()], "age")
    with pytest.raises(UserError, match=r"takes 1 value\(s\) .*female.*two are needed"):
        shadow.attribute_classes([corpus(speakers=1)], "gender")


def study(tmp_path, **changes):
    from hydra import compose, initialize_config_module

    from server.run import study_config

    overrides = [f"{key}={value}" for key, value in changes.items()]
    with initialize_config_module("conf", version_base="1.3"):
        return study_config(compose("config", overrides=[f"cache={tmp_path}", *overrides]))


def test_shadow_federations_leave_other_speakers_out_and_know_whose_each_client_is(tmp_path):
    data = [corpus("a"), corpus("b", speakers=5, shards=2, seed=1)]
    config = study(tmp_path)
    made = shadow.shadow_federations(config, data, tmp_path)
    assert [f.name for f in made] == [f"shadow-{i}" for i in range(5)]
    for federation in made:
        assert len(federation.clients) == 8 + 2 * 4
        assert federation.protocol.plan.config == PrivacyConfig()
        labels = shadow.client_labels(federation, data, "gender", ["female", "male"])
        for label, name in zip(labels, federation.clients.speakers, strict=True):
            assert label == int(name[1:]) % 2
    trained = [set(zip(f.clients.corpora, f.clients.speakers, strict=True)) for f in made]
    assert set.union(*trained) == {("a", s) for s in data[0].speakers} | {
        ("b", s) for s in data[1].speakers
    }
    assert len({frozenset(t) for t in trained}) == 5


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"rounds": 7}, {"normalisation": "corpus"}, {"training.epochs": 2}]
)
def test_the_cache_is_named_by_what_determines_a_transcript(tmp_path, change):
    data = [corpus("a")]
    first = shadow.shadow_federations(study(tmp_path), data, tmp_path)
    again = shadow.shadow_federations(study(tmp_path, privacy="udp"), data, tmp_path)
    other = shadow.shadow_federations(study(tmp_path, **change), data, tmp_path)
    assert [f.folder for f in first] == [f.folder for f in again]  # mechanisms are the victims'
    assert not {f.folder for f in first} & {f.folder for f in other}


def test_only_complete_transcripts_enter_the_cache(tmp_path):
    made = shadow.shadow_federations(study(tmp_path), [corpus("a")], tmp_path)
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
