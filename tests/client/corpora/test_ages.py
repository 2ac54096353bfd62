import math
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedser.client.corpora.ages import age_group, is_age, with_age_groups
from fedser.client.corpora.base import Corpus, Utterance, shared_attributes
from fedser.client.corpora.emodb import Emodb
from fedser.client.corpora.nemo import Nemo
from fedser.client.corpora.ravdess import Ravdess
from fedser.common.errors import UserError

BOUNDS = st.lists(st.integers(1, 110), min_size=1, max_size=8, unique=True).map(sorted)
NAME = re.compile(r"below (\d+)|(\d+) and above|(\d+) to (\d+)|(\d+)")


def interval(name: str) -> tuple[float, float]:
    """Read a group's name as a person would: its youngest age, and the first one too old."""
    match = NAME.fullmatch(name)
    assert match is not None
    below, youngest, first, last, only = match.groups()
    if below:
        return 0, int(below)
    if youngest:
        return int(youngest), math.inf
    return (int(first), int(last) + 1) if first else (int(only), int(only) + 1)


@pytest.mark.parametrize(
    ("bounds", "names"),
    [
        ([30], {0.5: "below 30", 29: "below 30", 29.9: "below 30", 30: "30 and above"}),
        (
            [30, 45],
            {29: "below 30", 30: "30 to 44", 44: "30 to 44", 44.5: "30 to 44", 45: "45 and above"},
        ),
        ([17, 18, 20], {16: "below 17", 17: "17", 18: "18 to 19", 20: "20 and above"}),
    ],
)
def test_bounds_define_names_and_edges_of_groups(
    bounds: list[int], names: dict[float, str]
) -> None:
    assert {age: age_group(age, bounds) for age in names} == names


@given(BOUNDS, st.floats(0.1, 120))
def test_an_age_lies_in_the_interval_of_its_group_name(bounds: list[int], age: float) -> None:
    youngest, too_old = interval(age_group(age, bounds))
    assert youngest <= age < too_old


@given(BOUNDS)
def test_groups_cover_all_ages_without_gaps(bounds: list[int]) -> None:
    names = list(dict.fromkeys(age_group(age, bounds) for age in [0.5, *range(1, 121)]))
    if bounds[0] == 1:  # nobody but infants is below 1
        assert names[0] == "below 1"
    ends = [interval(name) for name in names]
    assert len(names) == len(bounds) + 1
    assert [first for first, _ in ends] == [0, *bounds]
    assert [end for _, end in ends] == [*bounds, math.inf]


@pytest.mark.parametrize("text", ["27", "27.0", " 61 ", "0.5"])
def test_valid_ages(text: str) -> None:
    assert is_age(text)


@pytest.mark.parametrize("text", ["", "young", "25-30", "nan", "inf", "-1", "0", "1O"])
def test_invalid_ages(text: str) -> None:
    assert not is_age(text)


def utterance(speaker: str, **attributes: str) -> Utterance:
    return Utterance(Path("a.wav"), speaker, "anger", attributes)


def test_only_utterances_with_an_age_get_a_group() -> None:
    given_, made = [utterance("a", age="30", gender="male"), utterance("b", gender="male")], []
    made = with_age_groups(given_, [30])
    assert made[0].attributes == {"age": "30", "age_group": "30 and above", "gender": "male"}
    assert made[1] == given_[1]
    assert given_[0].attributes == {"age": "30", "gender": "male"}


def test_two_ages_of_a_speaker_may_share_one_group() -> None:
    two = [utterance("a", age="31"), utterance("a", age="32")]
    assert shared_attributes(with_age_groups(two, [30])) == {"age_group": "30 and above"}
    assert shared_attributes(with_age_groups(two, [32])) == {}


@pytest.mark.parametrize("bounds", [[], [45, 30], [30, 30], [0, 30], [-5]])
def test_invalid_bounds_are_rejected(bounds: list[int]) -> None:
    with pytest.raises(UserError) as error:
        with_age_groups([], bounds)
    assert str(error.value) == (
        f"age_bounds={bounds}: must be ages above 0 in ascending order, such as [30, 45]"
    )


def groups(corpus: Corpus, bounds: list[int]) -> Counter[str | None]:
    """Count the speakers of each group."""
    made = with_age_groups(corpus.listing(Path("unused")).utterances, bounds)
    of = {(u.speaker, u.attributes.get("age_group")) for u in made}
    return Counter(group for _, group in of)


@pytest.mark.corpora
def test_age_groups_of_real_corpora(data_root: Path) -> None:
    nemo = Nemo("nemo", 5, "error", str(data_root / "nemo"))
    emodb = Emodb("emodb", 4, "error", str(data_root / "emodb"))
    ravdess = Ravdess("ravdess", 4, "error", str(data_root / "ravdess"), "drop")
    assert groups(nemo, [30]) == {"below 30": 9}
    assert groups(emodb, [30]) == {"below 30": 3, "30 and above": 7}
    # only between 24 and 28 do both corpora have speakers on either side
    assert groups(nemo, [26]) == {"below 26": 5, "26 and above": 4}
    assert groups(emodb, [26]) == {"below 26": 2, "26 and above": 8}
    assert groups(emodb, [26, 32]) == {"below 26": 2, "26 to 31": 4, "32 and above": 4}
    assert groups(ravdess, [30]) == {None: 24}
