"""The examples of docs/how-to, run as they stand there."""

import re
from pathlib import Path

import pytest

from tests.client.corpora.trees import Speech

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def blocks(page: str) -> dict[str, str]:
    """Return a page's blocks of code by language."""
    text = (HOW_TO / page).read_text()
    assert len(text.splitlines()) < 60
    return dict(re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def family(tmp_path, monkeypatch) -> Path:
    """Write what the page on corpora tells to write, and recordings named as it says."""
    shown = blocks("add-a-corpus.md")
    (tmp_path / "mine/conf/corpus").mkdir(parents=True)
    (tmp_path / "mine/family.py").write_text(shown["python"])
    (tmp_path / "mine/conf/corpus/family.yaml").write_text(shown["yaml"])
    speech = Speech.spoken(tmp_path / "voices")
    for speaker in ("anna_f", "bert_m"):
        for emotion in ("joy", "anger", "fear"):
            speech.write(tmp_path / "data/family/talks" / f"{speaker}_{emotion}_01.wav")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_add_a_corpus(family, command):
    data = family / "data"
    given = ["--config-dir", "mine/conf", "corpus=family", f"data_root={data}", "shadow=[]"]
    assert (
        "fedser --config-dir mine/conf corpus=family data_root=/data stage=check"
        in (blocks("add-a-corpus.md")["sh"])
    )
    status, printed = command(*given, "stage=check", f"cache={family / 'cache'}")
    assert status == 0
    assert "corpus family: Family talks" in printed and "licence: CC BY 4.0" in printed
    assert "left out: fear (2)" in printed

    (data / "family" / "talks").rename(data / "family" / "others")
    status, printed = command(*given, "stage=check", f"cache={family / 'cache'}")
    assert status == 2
    assert f"the folder {data}/family has another layout (looked for talks/*.wav)" in printed
