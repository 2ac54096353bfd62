from pathlib import Path

from rich.console import Console

from client.corpora import check
from client.corpora.base import Utterance


def utterance(speaker: str, emotion: str, **attributes: str) -> Utterance:
    return Utterance(Path("a.wav"), speaker, emotion, attributes)


def lines(*utterances: Utterance) -> list[list[str]]:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(check.table("some", utterances))
    separators = str.maketrans("┃│", "  ")
    rows = (line.translate(separators).split() for line in capture.get().splitlines())
    return [row for row in rows if row and row[0][0].isalnum()]


def test_counts_and_totals() -> None:
    assert lines(
        utterance("b", "anger", gender="male"),
        utterance("a", "neutral", gender="female"),
        utterance("a", "anger", gender="female"),
        utterance("a", "anger", gender="female"),
    ) == [
        ["corpus", "some"],
        ["speaker", "gender", "neutral", "happiness", "sadness", "anger", "total"],
        ["a", "female", "1", "0", "0", "2", "3"],
        ["b", "male", "0", "0", "0", "1", "1"],
        ["2", "speakers", "1", "female,", "1", "male", "1", "0", "0", "3", "4"],
    ]


def test_unknown_gender_is_not_shown() -> None:
    assert lines(utterance("a", "sadness"))[1:3] == [
        ["speaker", "neutral", "happiness", "sadness", "anger", "total"],
        ["a", "0", "0", "1", "0", "1"],
    ]


def test_differences_between_speakers_are_counted_beneath() -> None:
    assert lines(
        utterance("a/1", "anger", corpus="a", language="en", take="1", age_group="below 30"),
        utterance("a/1", "anger", corpus="a", language="en", take="2", age_group="below 30"),
        utterance("a/2", "anger", corpus="a", language="en", age_group="30 and above"),
        utterance("b/1", "anger", corpus="b", language="en"),
    )[-2:] == [
        ["age_group:", "30", "and", "above", "(1),", "below", "30", "(1),", "not", "known", "(1)"],
        ["corpus:", "a", "(2),", "b", "(1)"],
    ]


def test_what_differs_too_much_is_not_listed() -> None:
    many = [utterance(f"s{n}", "anger", shoe=str(n)) for n in range(check.MAX_VALUES + 1)]
    assert "shoe:" not in sum(lines(*many), [])
    assert "shoe:" in sum(lines(*many[1:]), [])
