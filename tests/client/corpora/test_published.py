from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from fedser.client.corpora.build import build_corpus
from fedser.client.corpora.published import Part, Published
from fedser.common.errors import UserError
from tests import ROOT
from tests.client.corpora.layouts import LAYOUTS, Speech

NAMES = sorted({layout.split()[0] for layout in LAYOUTS})
FILES = {  # as errors about names show them
    "ravdess": "03-01-05-02-01-01-12.wav",
    "emodb": "03a01Fa.wav",
    "nemo": "WR0_anger_64.wav",
}


def corpus(name: str, root: Path) -> Published:
    with initialize_config_module("fedser.conf", version_base="1.3"):
        config = compose(overrides=["+data_root=/data", f"+corpus={name}", f"corpus.root={root}"])
    made = build_corpus(config.corpus, "/data")
    assert isinstance(made, Published)
    return made


@pytest.fixture(scope="module")
def layouts(speech: Speech, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder of every layout."""
    root = tmp_path_factory.mktemp("layouts")
    for name, write in LAYOUTS.items():
        write(root / name, speech)
    return {name: root / name for name in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_corpus_reads_its_own_layouts(layouts: dict[str, Path], layout: str) -> None:
    made = corpus(layout.split()[0], layouts[layout])
    changed = {"emotions": {"boredom": None}} if layout == "audformat" else {}
    made = type(made)(**{**vars(made), **changed})
    assert made.listing(Path()).utterances


@pytest.mark.parametrize(
    ("name", "layout"),
    [(name, layout) for name, layout in product(NAMES, LAYOUTS) if layout.split()[0] != name],
)
def test_every_corpus_rejects_every_other_layout(
    layouts: dict[str, Path], name: str, layout: str
) -> None:
    made = corpus(name, layouts[layout])
    with pytest.raises(UserError) as error:
        made.listing(Path())
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"corpus {name}: ")
    assert f"{layouts[layout]} has another layout" in message or FILES[name] in message
    if "has another layout" in message:
        assert all(str(part) in message for part in made.source.parts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("folder", "fault"),
    [("empty", "is empty"), ("absent", "does not exist"), ("file", "is a file")],
)
def test_every_corpus_rejects_a_folder_without_content(
    tmp_path: Path, name: str, folder: str, fault: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    made = corpus(name, tmp_path / folder)
    with pytest.raises(UserError) as error:
        made.listing(tmp_path)
    assert str(error.value) == (
        f"corpus {name}: the folder {tmp_path / folder} {fault} (looked for "
        f"{', '.join(map(str, made.source.parts))}): set corpus.root=<folder of the corpus>; "
        "docs/corpora.md describes where to get it"
    )


def test_the_first_matching_pattern_is_used(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "a.wav"):
        (tmp_path / name).touch()
    part = Part("some", ("*.flac", "*.txt", "*.wav"))
    assert part.find(tmp_path) == [Path("a.txt"), Path("b.txt")]
    assert str(part) == "*.flac or *.txt or *.wav"


@pytest.mark.parametrize("name", NAMES)
def test_every_corpus_is_documented(name: str) -> None:
    text = (ROOT / "docs" / "corpora.md").read_text()
    _, _, section = text.partition(f"## `{name}`")
    section = section.partition("\n## ")[0]
    source = corpus(name, Path()).source
    for said in (source.title, source.licence, source.address):
        assert said in section
    for part in source.parts:
        assert all(f"`{pattern}`" in section for pattern in part.patterns)
