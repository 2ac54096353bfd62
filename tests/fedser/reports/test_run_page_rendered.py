import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from fedser.reports.run_page import write_report
from fedser.results.files import write_results
from tests.studies import make_attack, make_verification

Results = dict[str, Any]

CHROMIUM = shutil.which("chromium")


def test_page_loads_nothing_and_escapes_what_it_shows(run_dir: Path, results: Results) -> None:
    results["corpus"]["name"] = "<script>alert(1)</script>"
    write_results(run_dir / "results.json", results)
    page = write_report(run_dir).read_text("utf-8")
    assert not re.search(r"https?://|<script|<link|<img|@import|src=", page)
    assert not re.search(r"url\((?!#)", page)
    assert "&lt;script&gt;" in page


def test_figures_are_images_and_inline_svg(run_dir: Path) -> None:
    page = write_report(run_dir).read_text("utf-8")
    for name in ("utility", "roc", "leakage"):
        image = imread(run_dir / "figures" / f"{name}.png")[..., :3]
        assert min(image.shape[:2]) > 600
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    assert page.count("<svg") == 3
    assert page.count("n = 10 speakers, 50 clients") == 3


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to lay the page out")
@pytest.mark.parametrize(("width", "recognised"), [(390, False), (1280, False), (1280, True)])
def test_page_is_no_wider_than_the_window(
    run_dir: Path, results: Results, width: int, recognised: bool
) -> None:
    long = {"layer": "dense.0", "shadow_corpora": ["synthetic_de", "synthetic_pl"]}
    inferred = make_attack(**long, p_value=0.0002, uar_calibrated=1.0, victims=1230)
    recognising = make_verification(**long, across="shards", victims=1230)
    results["attacks"] = [recognising if recognised else inferred]
    write_results(run_dir / "results.json", results)
    page = write_report(run_dir).read_text("utf-8")
    # Chromium has no windows below 500 px, frames can be of any width.
    (run_dir / "frame.html").write_text(
        f'<iframe id="f" style="width:{width}px;height:900px;border:0" '
        f'srcdoc="{html.escape(page)}"></iframe><script>onload = () => {{ const d = '
        "document.getElementById('f').contentDocument; document.title = 'width ' + "
        "d.documentElement.scrollWidth + ' tables ' + [...d.querySelectorAll('.scroll')].map("
        "table => table.scrollWidth); };"
        "</script>"
    )
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-quic", "--disable-background-networking", "--disable-sync"]
    command += ["--disable-component-update", f"--user-data-dir={run_dir / 'profile'}"]
    command += ["--dump-dom", (run_dir / "frame.html").as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>width (\d+) tables (\d+),(\d+)</title>", dumped.stdout)
    assert found
    page_width, *tables = map(int, found.groups())
    assert page_width <= width
    assert width < 1280 or max(tables) <= width  # on a desktop no table needs scrolling
