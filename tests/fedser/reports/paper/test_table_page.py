import re
from pathlib import Path
from xml.etree import ElementTree

from fedser.reports.paper.table_report import write_table
from tests.fedser.reports.paper.tables import AddRun, by_layer, table_of


def test_page_shows_table_figure_and_differences(tmp_path: Path, add_run: AddRun) -> None:
    for algorithm in ("fedavg", "fedsgd"):
        add_run({"algorithm": algorithm, "seed": "<b>"}, by_layer(0.9))
    (tmp_path / "0" / "report.html").touch()
    write_table(tmp_path, "layers")
    page = (tmp_path / "table.html").read_text("utf-8")
    body = ElementTree.fromstring(
        "<table>" + re.search(r"<tbody>.*?</tbody>", page, re.DOTALL)[0] + "</table>"  # type: ignore[index]
    )
    # An interval stands below its figure.
    rows = [
        ["".join(cell.itertext()).replace("\n(", " (") for cell in row] for row in body.iter("tr")
    ]
    grid, notes = table_of(tmp_path, "layers")
    assert rows == grid.to_numpy().tolist()
    theirs = [row for row in body.iter("tr") if "published" in str(row.get("class"))]
    assert len(theirs) == 6 and all(row[2].text == "published" for row in theirs)
    assert page.count("<svg") == 1 and 'href="0/report.html"' in page
    assert "the study&#39;s corpora are English" in page
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
