"""Texts that look like markup, commands or other syntax, in all keys that take a text."""

import csv
import html
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fedser.client.corpora.base import EMOTIONS
from fedser.common.console import plain
from fedser.conf.build import compose
from fedser.conf.overrides import override
from fedser.results.files import read_results

ODD = ["a=b", "c,d", "e(1)", "ö ß", "it's", 'say "a"', "back\\slash\\", "${x}", "~", "#1", "[/b]"]
ODD += ["[f01]", "[red]x", "null", "1e3", "{a: b}", "a\nb", "\x1b[31m", "`id`", "a;b&c", "*", ":-)"]
ODD += ["пример", "例", "\u202eabc", "<b>&amp;", ":smile:", "%s{0}", "-x", "a/b", "\t.", "+1"]
FOLDERS = [text for text in ODD if "/" not in text and "${" not in text][::4]
"""Names of folders; Hydra itself resolves a reference to another key, so none has one."""
NOT_TEXTS = ["hydra", "_target_"]


def string_keys(node: DictConfig, above: str = "") -> list[str]:
    """Return all keys of a configuration that hold a text or null."""
    found = []
    for name in node:
        key = f"{above}{name}"
        value = None if OmegaConf.is_missing(node, name) else node[name]
        if isinstance(value, DictConfig):
            found += string_keys(value, f"{key}.")
        elif (value is None or isinstance(value, str)) and name not in NOT_TEXTS:
            found.append(key)
    return found


STUDY = ["corpus=manifest", "runtime=local", "attack=[statistics,fusion]", "audit=canary"]
KEYS = string_keys(compose([*STUDY, "privacy=udp"]))


def write_corpus(folder: Path, speakers: list[str], group: list[str]) -> Path:
    """Write a table of five utterances and one odd column for each speaker."""
    rng = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "speaker", "emotion", "gender", "gr[b]oup"])
        for number, (speaker, value) in enumerate(zip(speakers, group, strict=True)):
            for count, emotion in enumerate(EMOTIONS):
                name = f"{number}-{count}.wav"
                soundfile.write(folder / name, rng.normal(0, 0.1, 4000), 16000)
                gender = ("female", "male")[number % 2]
                writer.writerow([name, speaker, emotion, gender, value])
    return folder / "table.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return write_corpus(folder, [f"s{n}" for n in range(5)], ["a", "b", "a", "b", "a"])


def base(table: Path) -> list[str]:
    return ["corpus=manifest", override("corpus.file", table), "runtime=local", "shadow=[]"]


def one_line(printed: str) -> str:
    (line,) = [line for line in printed.splitlines() if line.startswith("fedser: ")]
    assert line.isprintable() and "Traceback" not in printed and "Error executing" not in printed
    return line


@pytest.mark.parametrize("key", KEYS)
def test_a_key_takes_odd_texts_or_rejects_them_in_one_line(key, table, fedser):
    start = KEYS.index(key)
    for number in range(2):
        text = ODD[(7 * start + 11 * number) % len(ODD)]
        status, printed = fedser("stage=check", *base(table), override(key, text))
        assert status in (0, 2), (text, printed)
        if status:
            one_line(printed)


@pytest.mark.parametrize("text", FOLDERS)
@pytest.mark.usefixtures("undrawn")  # no figure shows the name of a folder
def test_folders_may_have_odd_names(text, tmp_path, fedser):
    home = tmp_path / text
    home.mkdir()
    table = write_corpus(home, [f"s{n}" for n in range(5)], ["a", "b", "a", "b", "a"])
    run = home / "run"
    where = [override("hydra.run.dir", run), override("data_root", home)]
    fast = ["rounds=1", "folds=[0]", "attack=statistics"]
    status, printed = fedser(*base(table), *fast, *where, "stage=train")
    assert status == 0, printed
    status, printed = fedser("stage=report", override("run", run))
    assert status == 0, printed
    assert read_results(run / "results.json")["corpus"]["utterances"] == 20


def shown(data: object) -> str:
    console = Console(width=500)
    with console.capture() as capture:
        console.print(plain(data))
    return capture.get().rstrip("\n")


@pytest.mark.parametrize("first", range(0, len(ODD), 6))
def test_odd_table_cells_are_printed_unchanged(first, tmp_path, fedser, monkeypatch):
    monkeypatch.setattr("fedser.common.console.console.width", 300)
    odd = [text for text in (ODD * 2)[first : first + 6] if text != "null"]
    speakers = [*odd, *(f"s{n}" for n in range(6 - len(odd)))]
    table = write_corpus(tmp_path, speakers, [*odd, *speakers[len(odd) :]])
    status, printed = fedser("stage=check", *base(table))
    assert status == 0, printed
    for text in odd:
        assert shown(text.strip()).split("\n")[0] in printed
    assert "gr[b]oup" in printed


def test_a_study_with_odd_names_is_reported(tmp_path, fedser):
    odd = ["[/b]", "<b>&amp;", "a=b,c", "it's", "пример", 'q"']
    table = write_corpus(tmp_path, odd, odd)
    fast = ["rounds=1", "folds=[0]", "privacy=udp", "privacy.epsilon=50", "corpus.name='m[/b]'"]
    run = tmp_path / "run"
    where = override("hydra.run.dir", run)
    status, printed = fedser(*base(table), *fast, where, "stage=all", "attack=statistics")
    assert status == 0 and "corpus m[/b], privacy udp" in printed
    page = (run / "report.html").read_text("utf-8")
    (fold,) = read_results(run / "results.json")["utility"]["per_fold"]
    for speaker in fold["test_speakers"]:
        assert html.escape(speaker).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page
    assert "<b>&amp;" not in page
