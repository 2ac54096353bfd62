"""Updates that attacks are fitted to, recorded by an attack that notes all of them."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from fedser.attacks.adversary.fit import ShadowFederation, fit_attacks, speaker_groups
from fedser.attacks.adversary.tap import View
from fedser.common import threads
from fedser.common.errors import UserError
from fedser.server.transcript.transcript import RecordedUpdates, Transcript, TranscriptMeta
from fedser.server.transcript.writer import TranscriptWriter

pytestmark = pytest.mark.all_cores

NAMES = ["dense.0.weight", "dense.0.bias"]
VIEW = View("attributed", NAMES, initial_weights=True)
LABELS = np.array([0, 1, 0, 1, 2, 2, 0, 1, 2, 0])  # of ten speakers
GROUPS = np.arange(10) % 3


@dataclass
class Spy:
    """Notes the mark of every update that it is fitted to, and scores with these marks."""

    max_examples: int | None
    name: str = "spy"
    saw: Counter = field(default_factory=Counter)

    def features(self, gradients):
        return gradients["dense.0.bias"]

    def fit(self, examples):
        for passes in (1, 2):  # a stream reads again at every call
            self.saw = Counter(
                (*map(int, mark[:3]), label)
                for batch in examples()
                for mark, label in zip(
                    batch.gradients["dense.0.bias"], batch.labels.tolist(), strict=True
                )
            )
            self.passes = passes

    def score(self, features):
        """Return whether the speaker of each update is in the notes, and the update's mark."""
        speakers = {speaker for _, speaker, _, _ in self.saw}
        known = [int(mark[1]) in speakers for mark in features]
        return np.column_stack([known, features[:, 1], features[:, 2]])


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(threads, "cpu_count", lambda: 1)


def write(folder, number, speakers, rounds=6):
    """Write a shadow federation; each gradient holds its federation, speaker and round."""
    meta = TranscriptMeta("shadow", "fedsgd", len(speakers), rounds, NAMES, "float32", {})
    with TranscriptWriter(folder, meta, {}) as writer:
        for server_round in range(1, rounds + 1):
            who = np.array([c for c in range(len(speakers)) if (c + server_round) % 2])
            mark = np.stack([[number, speakers[c], server_round] for c in who])
            arrays = {
                "dense.0.bias": mark.astype(np.float32),
                "dense.0.weight": np.zeros((len(who), 3, 2), np.float32),
            }
            at = np.full(len(who), server_round)
            model = {name: array[0] for name, array in arrays.items()}
            writer.record(
                server_round, model, [RecordedUpdates(at, who, np.ones_like(who), arrays)]
            )
        writer.record_model(rounds + 1, model)
    return ShadowFederation(folder, LABELS[speakers], np.array(speakers))


@pytest.fixture
def shadows(tmp_path):
    """Three federations; the middle one sends twice as many updates."""
    return [
        write(tmp_path / "0", 0, [0, 1, 2, 3, 4, 5, 6, 7]),
        write(tmp_path / "1", 1, [2, 3, 4, 5, 6, 7, 8, 9], rounds=12),
        write(tmp_path / "2", 2, [9, 8, 7, 6, 5, 4, 1, 0]),
    ]


def sent(shadows):
    return Counter(
        (*map(int, mark), int(LABELS[int(mark[1])]))
        for shadow in shadows
        for chunk in Transcript(shadow.folder)
        for mark in chunk.arrays["dense.0.bias"]
    )


def fit(shadows, *spies, view=VIEW, held_out=(), seed=0):
    return fit_attacks(spies, shadows, view, GROUPS, held_out, seed)


@pytest.mark.parametrize("most", [None, 96, 1000])
def test_without_limit_each_update_is_used_once(shadows, most):
    (fitted,) = fit(shadows, Spy(most))
    assert fitted.attack.saw == sent(shadows) and sum(fitted.attack.saw.values()) == 96
    assert fitted.attack.passes == 2 and fitted.without == {}


@pytest.mark.parametrize("most", [1, 20, 95])
def test_max_examples_updates_are_used_once_with_their_class(shadows, most):
    (fitted,) = fit(shadows, Spy(most))
    saw = fitted.attack.saw
    assert sum(saw.values()) == most and saw <= sent(shadows)


def test_examples_are_drawn_over_all_shadow_federations(shadows):
    found = Counter()
    for seed in range(60):
        (fitted,) = fit(shadows, Spy(24), seed=seed)
        found.update(number for number, *_ in fitted.attack.saw.elements())
    for number, many in ((0, 24), (1, 48), (2, 24)):
        once = hypergeom(96, many, 24)
        assert abs(found[number] - 60 * once.mean()) < 5 * np.sqrt(60) * once.std()


def test_examples_depend_on_attack_name_and_seed(shadows):
    first, other = fit(shadows, Spy(20), Spy(20, name="other"))
    (again,) = fit(shadows, Spy(20))
    (elsewhere,) = fit(shadows, Spy(20), seed=1)
    assert again.attack.saw == first.attack.saw
    assert first.attack.saw not in (other.attack.saw, elsewhere.attack.saw)


def test_a_copy_of_the_attack_is_fitted(shadows):
    spy = Spy(None)
    fit(shadows, spy)
    assert not spy.saw


@pytest.mark.parametrize("most", [None, 40])
def test_a_held_out_copy_is_fitted_to_all_other_groups(shadows, most):
    spy, plain = fit(shadows, Spy(most), Spy(most, name="plain"), held_out=["spy"])
    assert plain.without == {} and set(spy.without) == {0, 1, 2}
    for group, attack in spy.without.items():
        rest = {m: n for m, n in spy.attack.saw.items() if GROUPS[m[1]] != group}
        assert attack.saw == Counter(rest) and len(rest) < len(spy.attack.saw)


def test_held_out_updates_are_scored_by_the_right_copy(shadows):
    (spy,) = fit(shadows, Spy(None), held_out=["spy"])
    speakers = np.array([9, 0, 4, 1, 1, 8, 6])
    marks = np.stack([np.zeros(7), speakers, np.arange(7)], axis=1).astype(np.float32)
    found = spy.score_held_out({"dense.0.bias": marks}, GROUPS[speakers])
    np.testing.assert_array_equal(found[:, 0], 0)  # no speaker is known
    np.testing.assert_array_equal(found[:, 1:], marks[:, 1:])  # in the order of the updates
    assert (spy.attack.score(marks)[:, 0] == 1).all()


@pytest.mark.parametrize("vantage", ["aggregate", "final"])
def test_examples_are_what_the_vantage_shows(shadows, vantage):
    (fitted,) = fit(shadows, Spy(None), view=View(vantage, NAMES, initial_weights=True))
    labels = Counter(label for *_, label in fitted.attack.saw.elements())
    assert labels == Counter(int(label) for shadow in shadows for label in shadow.labels)


@given(
    labels=st.integers(2, 4).flatmap(
        lambda classes: st.lists(st.integers(0, classes - 1), max_size=20).map(
            lambda more: [*range(classes), *range(classes), *more]
        )
    ),
    corpora=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_all_classes_remain_without_any_group(labels, corpora, seed):
    labels = np.random.default_rng(seed).permutation(labels)
    of_corpus = np.random.default_rng(seed + 1).integers(corpora, size=len(labels))
    groups = speaker_groups(labels, of_corpus, "fusion")
    assert groups.shape == labels.shape and len(np.unique(groups)) > 1
    for group in np.unique(groups):
        assert set(labels[groups != group]) == set(labels)
    by_corpus = len(np.unique(of_corpus)) > 1 and all(
        set(labels[of_corpus != corpus]) == set(labels) for corpus in np.unique(of_corpus)
    )
    assert not by_corpus or np.array_equal(groups, of_corpus)


def test_groups_are_corpora_if_classes_remain():
    corpora = np.array([0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(speaker_groups(np.array([0, 1] * 3), corpora, "fusion"), corpora)


@pytest.mark.parametrize("corpora", [[0] * 12, [0] * 6 + [1] * 6])
def test_groups_share_classes_if_a_corpus_holds_a_whole_class(corpora):
    labels = np.repeat([0, 1], 6)
    groups = speaker_groups(labels, np.array(corpora), "fusion")
    for label in (0, 1):
        assert Counter(groups[labels == label].tolist()) == {0: 2, 1: 2, 2: 2}


def test_a_class_of_one_speaker_is_rejected():
    with pytest.raises(UserError, match="attack=fusion needs two shadow speakers of each class"):
        speaker_groups(np.array([0, 0, 0, 1]), np.zeros(4, dtype=int), "fusion")
