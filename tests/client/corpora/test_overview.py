from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedser.client.corpora import overview
from fedser.client.corpora.base import Utterance
from fedser.client.corpora.crema_d import CremaD
from fedser.client.corpora.emodb import Emodb
from fedser.client.corpora.manifest import Manifest
from fedser.client.corpora.pooled import Pooled
from fedser.client.corpora.synthetic.corpus import Synthetic
from tests.client.corpora.conftest import WriteLayout, WriteRecordings


def utterance(speaker: str, emotion: str, **attributes: str) -> Utterance:
    return Utterance(Path("a.wav"), speaker, emotion, attributes)


def printed(table: Table) -> list[list[str]]:
    console = Console(width=150)
    with console.capture() as capture:
        console.print(table)
    separators = str.maketrans("┃│", "  ")
    rows = (line.translate(separators).split() for line in capture.get().splitlines())
    return [row for row in rows if row and row[0][0].isalnum()]


def lines(*utterances: Utterance) -> list[list[str]]:
    return printed(overview.counts_table("some", utterances))


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


def test_differences_between_speakers_are_in_the_caption() -> None:
    assert lines(
        utterance("a/1", "anger", corpus="a", language="en", take="1", age_group="below 30"),
        utterance("a/1", "anger", corpus="a", language="en", take="2", age_group="below 30"),
        utterance("a/2", "anger", corpus="a", language="en", age_group="30 and above"),
        utterance("b/1", "anger", corpus="b", language="en"),
    )[-2:] == [
        ["age_group:", "30", "and", "above", "(1),", "below", "30", "(1),", "not", "known", "(1)"],
        ["corpus:", "a", "(2),", "b", "(1)"],
    ]


def test_attributes_with_too_many_values_are_not_listed() -> None:
    many = [utterance(f"s{n}", "anger", shoe=str(n)) for n in range(overview.MAX_LISTED_VALUES + 1)]
    assert "shoe:" not in sum(lines(*many), [])
    assert "shoe:" in sum(lines(*many[1:]), [])


def test_left_out_recordings_are_in_the_caption() -> None:
    shown = printed(
        overview.counts_table("some", [utterance("a", "anger")], {"tie": 2, "fear": 12})
    )
    assert shown[-1] == ["left", "out:", "fear", "(12),", "tie", "(2)"]


def test_parts_are_counted_or_missing(write_recordings: WriteRecordings) -> None:
    root = write_recordings("AudioWAV/1001_IEO_NEU_XX.wav", "AudioWAV/1001_IEO_HAP_LO.wav")
    (root / "VideoDemographics.csv").touch()
    corpus = CremaD("cd", 1, "error", str(root))
    assert printed(overview.parts_table(corpus)) == [
        ["corpus", "cd:", "CREMA-D"],
        ["part", "looked", "for", "found"],
        ["speech", "AudioWAV/*.wav", "2", "of", "7442"],
        ["votes", "processedResults/summaryTable.csv", "missing"],
        ["speakers", *" or ".join(CremaD.source.parts[2].patterns).split(), "1", "of", "1"],
    ]
    assert overview.origin(corpus).splitlines() == [
        f"folder: {root}",
        "licence: ODbL 1.0",
        "from: https://github.com/CheyneyComputerScience/CREMA-D",
        "see: docs/corpora.md",
    ]


def test_unknown_sizes_are_not_shown(write_recordings: WriteRecordings) -> None:
    emodb = Emodb("emodb", 4, "error", str(write_recordings("wav/03a01Fa.wav")))
    assert printed(overview.parts_table(emodb))[2] == [
        "speech",
        "utterances.csv",
        "or",
        "wav/*.wav",
        "1",
    ]


def test_published_corpora_of_a_pool() -> None:
    emodb, spoken = Emodb("emodb", 4, "error", ""), Synthetic("made", 1, "error", "en", 2, 4, 0)
    inner = Pooled("inner", 1, "error", [spoken, emodb])
    assert overview.published_corpora(Pooled("pooled", 1, "error", [emodb, inner])) == [
        emodb,
        emodb,
    ]
    assert overview.published_corpora(spoken) == []


def test_missing_and_unlisted_recordings_are_reported(
    write_layout: WriteLayout, tmp_path: Path
) -> None:
    root = write_layout("emodb")
    corpus = Emodb("emodb", 1, "error", str(root))
    listing = corpus.listing(tmp_path)
    recordings, speakers = len(listing.named), len({u.speaker for u in listing.utterances})
    report = overview.completeness(corpus, listing)
    assert report == (
        f"recordings: {recordings} of 535, {535 - recordings} missing\n"
        f"speakers: {speakers} of 10, {10 - speakers} missing\n"
    )
    one = sorted(root.glob("wav/*.wav"))[0]
    others = ["wav/._" + one.name, "wav/copy/" + one.name, f"wav/{one.stem} .WAV"]
    for other in others:
        (root / other).parent.mkdir(exist_ok=True)
        (root / other).write_bytes(one.read_bytes())
    assert corpus.listing(tmp_path) == listing
    assert overview.completeness(corpus, listing) == report + (
        f"not read: 3 audio file(s) that the corpus does not list, such as {root / others[0]}\n"
    )


def test_audio_that_a_table_does_not_list_is_reported(write_recordings: WriteRecordings) -> None:
    root = write_recordings("audio/a.wav", "audio/b.flac", "else/c.wav")
    (root / "list.csv").write_text("file,speaker,emotion\naudio/a.wav,x,anger\n")
    corpus = Manifest(
        "made", 1, "error", file=str(root / "list.csv"), root=None, columns={}, emotions={}
    )
    report = overview.completeness(corpus, corpus.listing(root))
    assert report == (
        "not read: 1 audio file(s) that the corpus does not list, such as "
        f"{root / 'audio/b.flac'}\n"
    )


def test_parts_take_on_bad_file_from_the_pool() -> None:
    emodb = Emodb("emodb", 4, "error", "")
    (part,) = overview.corpora_on_disk(Pooled("pooled", 1, "skip", [emodb]))
    assert part.on_bad_file == "skip"
