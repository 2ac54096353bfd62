from pathlib import Path

import pytest

from tests.fedser.reports.paper.tables import printed

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize("width", [72, 80, 100, 140])
def test_printed_table_loses_nothing_in_a_narrow_terminal(comparison_dir: Path, width: int) -> None:
    text = printed(comparison_dir, "comparison", width)
    assert max(map(len, text.splitlines())) <= width
    squeezed = "".join(text.split())
    for expected in ("0.920", "82.0", "fusion", "−0.020,", "acorpus:", "emetric:"):
        assert expected in squeezed
    assert ("Intervals are in the file" in text) == (".87–.96" not in text)


def test_printed_table_shows_intervals_where_there_is_room(comparison_dir: Path) -> None:
    assert ".87–.96" in printed(comparison_dir, "comparison", 120)
