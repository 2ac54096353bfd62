import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fedser.common.quoting import pasted, visible
from fedser.conf.overrides import home_expanded, override

ODD = [
    "a=b",
    "a,b",
    "a(1)",
    "ö",
    "a b",
    "it's",
    'say "a"',
    "a\\",
    "${x}",
    "\\${x}",
    "~",
    "#",
    "[b]",
]
ODD += ["null", "True", "1", "1e3", "", "[x", "{a: b}", "a\nb", "a\\nb", "\t", "\x1b[31m", "$HOME"]
ODD += ["`id`", "a;b", "a&b", "!a", "*", "\ufeff", "пример", "例", "a'\n", "a\u2028b", "x:y"]
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(TEXTS)
@example("\\\\${x}")
@example(".0")
def test_hydra_reads_an_override_back_to_the_same_text(text):
    check_override(text)


@pytest.mark.parametrize("text", ODD)
def test_hydra_reads_odd_texts_back(text):
    check_override(text)


def check_override(text):
    parsed = OverridesParser.create().parse_override(override("cache", text))
    assert parsed.key_or_group == "cache"
    composed = OmegaConf.create({"cache": parsed.value(), "x": "other", "used": "${cache}"})
    assert composed.cache == composed.used == text


@pytest.mark.parametrize("text", ODD)
def test_a_shell_reads_a_pasted_command_back(text):
    line = pasted(["printf", "%s", text])
    assert line.isprintable()
    told = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert told.stdout == text.encode()


def test_plain_folders_are_not_quoted():
    assert pasted(["fedser", override("resume", "/tmp/run-1/2026_07")]) == (
        "fedser resume=/tmp/run-1/2026_07"
    )


def test_what_is_not_printable_is_escaped():
    assert visible("a\nb\x1b[1m\0") == r"a\nb\x1b[1m\x00" and visible("naïve 例") == "naïve 例"
    assert visible("a\udcff") == r"a\xff"


def test_the_home_folder_is_put_in_for_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["cache=~/x", "cache=~", "~cache", "a=b~/c", "run=~/a=b", "-m", "cache=~other"]
    expected = ["cache=/home/me/x", "cache=/home/me", "~cache", "a=b~/c", 'run="/home/me/a=b"']
    assert home_expanded(given) == [*expected, "-m", "cache=~other"]
    assert str(Path("~").expanduser()) == "/home/me"
