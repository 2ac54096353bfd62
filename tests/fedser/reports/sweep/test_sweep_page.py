"""The page over many runs, as a browser shows it and people click it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from fedser.reports import figures
from fedser.reports.sweep.find_runs import runs_below
from fedser.reports.sweep.read_runs import UNFINISHED
from fedser.reports.sweep.sweep_report import write_sweep
from tests.fedser.reports.sweep.sweeps import CENTRAL, NO_GUARANTEE, add_run, variant
from tests.studies import make_results

Results = dict[str, Any]

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
]
EVIL = "<img src=x onerror=\"document.title='evil'\">"
RUNS = [  # mechanism's point, corpus, seed, UAR, AUC of correlation at 1, 20 and all
    ("none", "nemo", 0, 0.6, (0.93, 0.99, 0.995)),
    ("udp_25", "nemo", 0, 0.52, (0.785, 0.95, 0.972)),
    ("udp_25", "nemo", 1, 0.5, (0.765, 0.94, 0.952)),
    ("central_8", "nemo", 0, 0.35, (0.91, 0.96, 0.98)),
    ("central_8", "emodb", 0, 0.33, (0.7, 0.71, 0.72)),
]
GUARANTEES = {
    "none": {"mechanism": "none", **NO_GUARANTEE},
    "udp_25": {},
    "central_8": {**CENTRAL, "epsilon": 7.99, "epsilon_known_participation": 24.8},
}
NUMBER_OF_RUNS = 8


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("FEDSER_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium here: install one, or set FEDSER_CHROMIUM to its path")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


def make_sweep(folder: Path, results: Results) -> Path:
    """Five finished runs of two corpora, one that failed, one that goes on, and an unreadable."""
    for number, (point, corpus, seed, uar, auc) in enumerate(RUNS):
        run = variant(results, uar, auc, **GUARANTEES[point])
        run["corpus"] = {**run["corpus"], "name": corpus}
        run |= {"seed": seed, "config": {"seed": seed}}
        add(folder / str(number), point, corpus, seed, run)
        (folder / str(number) / "report.html").touch()
    add(folder / "5", "udp_25", "nemo", 2, None)
    (folder / "5" / "problem.txt").write_text(f"corpus.root={EVIL}: not a folder")
    add(folder / "6", "udp_25", "nemo", 3, None)
    add(folder / "7", "udp_25", "nemo", 4, None)
    (folder / "7" / "results.json").write_text('{"schema_version": 0}')
    return folder


@pytest.fixture(scope="module")
def sweep_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with its page; tests leave it as it is."""
    folder = make_sweep(tmp_path_factory.mktemp("sweep") / "a sweep", make_results())
    write_page(folder)
    return folder


def write_page(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "png_bytes", lambda figure: b"")  # the page does not show it
        write_sweep(folder, runs_below(folder))


def add(run: Path, point: str, corpus: str, seed: int, results: Results | None) -> None:
    note = EVIL if point == "central_8" else "good"
    add_run(run, [f"privacy={point}", f"corpus={corpus}", f"seed={seed}", f"+note={note}"], results)
    mechanism = GUARANTEES[point].get("mechanism", "udp")
    config = {"corpus": {"name": corpus}, "privacy": {"mechanism": mechanism}, "seed": seed}
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[[Path], Page]]:
    """Open the page of a sweep; it must ask for nothing else, and no script of it may fail."""
    shown: list[str] = []
    asked: list[str] = []
    failed: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)

    def show(sweep_dir: Path) -> Page:
        shown.append((sweep_dir / "sweep.html").as_uri())
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda said: failed.append(said.text) if said.type == "error" else None)
        page.goto(shown[-1])
        if page.locator("figure").count():
            page.wait_for_function("dots.length === 2 * figures.length")
        return page

    yield show
    context.close()
    assert asked == shown and len(shown) == 1
    assert failed == []


@pytest.fixture
def page(opened: Callable[[Path], Page], sweep_dir: Path) -> Page:
    return opened(sweep_dir)


def shown_runs(page: Page) -> list[int]:
    """Runs in the table, from top to bottom."""
    rows = page.locator("#runs tbody tr:visible").all()
    return [int(row.get_attribute("data-run") or "") for row in rows]


def drawn(page: Page, corpus: int = 0, panel: str = "auc") -> list[tuple[int, float, float]]:
    """Run, x and y of each dot of a panel."""
    data = page.evaluate(
        "([corpus, panel]) => dots.filter((d) => d.source.name === `${panel}-dots`)[corpus].source"
        ".data",
        [corpus, panel],
    )
    return sorted(zip(data["run"], data["x"], data["y"], strict=True))


def chip(page: Page, facet: str, value: str) -> Locator:
    return page.locator(f'fieldset:has(legend:text-is("{facet}")) input[value="{value}"]')


def test_every_run_has_a_row_with_results_or_problem(page: Page) -> None:
    texts = page.locator("#runs tbody tr").all_inner_texts()
    rows = [[cell.strip() for cell in text.split("\t")] for text in texts]
    assert rows[0] == [
        *("0", "nemo", "none", "0", "good", "60.0 (56.1–60.5)", "0.930 (0.851–0.948)"),
        *("0.995 (0.851–0.948)", "no guarantee", "–", "–", "–", "–", "a", "10, 50"),
    ]
    assert rows[3][8:14] == ["7.99", "24.8", "1e-5", "–", "client", "b"]
    assert rows[1][8:14] == ["105,307", "–", "1e-5", "25", "client", "a"]
    assert rows[5] == ["5", "nemo", "udp", "2", "good", f"corpus.root={EVIL}: not a folder"]
    assert rows[6] == ["6", "nemo", "udp", "3", "good", UNFINISHED]
    assert rows[7][-1].startswith("results.json: not a results file of this version ($")
    assert "a: the server, which sees every update" in page.locator("main").inner_text()
    assert "8 of 8 runs" in page.locator("#count").inner_text()
    assert "fedser" in page.title() and page.locator("img").count() == 0


def test_links_lead_to_the_reports(page: Page, sweep_dir: Path) -> None:
    links = [str(link.get_attribute("href")) for link in page.locator("#runs a").all()]
    assert links == [f"{number}/report.html" for number in range(5)]
    for link in page.locator("#runs a").all():
        target = urlsplit(link.evaluate("link => link.href"))
        assert target.scheme == "file" and Path(unquote(target.path)).is_file()


def test_headings_sort_the_table(page: Page) -> None:
    orders = {
        "Test UAR": ([4, 3, 2, 1, 0], [0, 1, 2, 3, 4]),
        "AUC, most": ([4, 2, 1, 3, 0], [0, 3, 1, 2, 4]),
    }
    for heading, found in orders.items():
        for order in found:
            page.get_by_role("button", name=heading).click()
            assert shown_runs(page) == [*order, 5, 6, 7]
    page.get_by_role("button", name="Real ε", exact=True).click()
    assert set(shown_runs(page)[:2]) == {3, 4} and set(shown_runs(page)[2:4]) == {1, 2}
    page.get_by_role("button", name="corpus").click()
    assert shown_runs(page)[0] == 4
    page.get_by_role("button", name="Run", exact=True).click()
    assert shown_runs(page) == list(range(NUMBER_OF_RUNS))
    heading = page.locator("th[aria-sort]")
    assert heading.inner_text() == "Run" and heading.get_attribute("aria-sort") == "ascending"


def test_filters_choose_rows_and_dots_alike(page: Page) -> None:
    assert [run for run, *_ in drawn(page)] == [0, 0, 1, 1, 2, 2, 3, 3]
    chip(page, "mechanism", "udp").check(force=True)
    assert shown_runs(page) == [1, 2, 5, 6, 7]
    real = 105306.4
    assert drawn(page) == [(1, real, 0.785), (1, real, 0.972), (2, real, 0.765), (2, real, 0.952)]
    assert drawn(page, panel="uar") == [(1, real, 52), (2, real, 50)]
    assert page.locator("figure:visible").count() == 1
    chip(page, "seed", "1").check(force=True)
    assert shown_runs(page) == [2] and drawn(page, panel="uar") == [(2, real, 50)]
    assert page.locator("#count").inner_text() == "1 of 8 runs"
    chip(page, "mechanism", "central").check(force=True)
    chip(page, "seed", "0").check(force=True)
    assert shown_runs(page) == [1, 2, 3, 4]
    chip(page, "corpus", "emodb").check(force=True)
    assert shown_runs(page) == [4] and drawn(page) == []
    assert drawn(page, corpus=1) == [(4, 7.99, 0.7), (4, 7.99, 0.72)]
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('#runs tr[hidden]').length === 0")
    assert shown_runs(page) == list(range(NUMBER_OF_RUNS)) and len(drawn(page)) == 8
    assert page.locator("figure:visible").count() == 2


def test_an_attack_can_be_chosen(page: Page) -> None:
    chip(page, "attack", "centroid").check(force=True)
    assert shown_runs(page) == [0, 1, 2, 3, 4]
    assert {y for _, _, y in drawn(page)} == {0.52}
    assert (
        page.locator("#runs tbody tr").nth(1).locator("td").nth(6).inner_text().startswith("0.52")
    )
    assert len(drawn(page, panel="uar")) == 4


def test_no_epsilon_is_made_up(page: Page) -> None:
    data = page.evaluate("dots.map(({ all }) => [all.run, all.x, all.nominal, all.line])")
    runs, places, nominal, lines = data[1]
    largest = max(x for run, x in zip(runs, places, strict=True) if run != 0)
    assert all((x > largest) == (run == 0) for run, x in zip(runs, places, strict=True))
    assert all((line is None) == (run == 0) for run, line in zip(runs, lines, strict=True))
    claimed = {run for run, value in zip(runs, nominal, strict=True) if value == 25}
    assert claimed == {1, 2}
    lines = page.evaluate("dots[1].lines.data")
    assert sorted(lines["xs"]) == [[7.99], [7.99], [105306.4], [105306.4]]
    udp = [y for x, y in zip(lines["xs"], lines["ys"], strict=True) if x == [105306.4]]
    assert sorted(udp) == [pytest.approx([0.775]), pytest.approx([0.962])]


def test_tooltip_of_a_dot_shows_the_run_and_its_sample(page: Page) -> None:
    place = page.evaluate(
        """() => {
          const [panel] = dots[0].source.document.roots()[0].children;
          const view = Bokeh.index.find_one_by_id(panel.id);
          const canvas = view.canvas.el.getBoundingClientRect();
          const x = view.frame.x_scale.compute(7.99), y = view.frame.y_scale.compute(35);
          return [canvas.x + x, canvas.y + y];
        }"""
    )
    page.mouse.move(*place)
    text = page.get_by_text("test UAR 35.0 %").evaluate("it => it.getRootNode().textContent")
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"central_8, corpus=nemo, seed=0, note={EVIL}" in text
    assert "test UAR 35.0 %, 5 folds, 56.1 % to 60.5 %" in text
    assert "central: real ε = 7.99 at δ = 1e-5 for one client" in text
    assert "10 speakers, 50 clients" in text


def test_runs_without_attacks_and_a_single_run_have_a_page(
    opened: Callable[[Path], Page], tmp_path: Path, results: Results
) -> None:
    alone = variant(results, 0.6, (0.9, 0.9, 0.9), mechanism="none", **NO_GUARANTEE)
    add_run(tmp_path / "0", [f"+note={EVIL}"], alone | {"attacks": []})
    write_page(tmp_path)
    page = opened(tmp_path)
    assert page.locator("fieldset").count() == 0
    row = page.locator("#runs tbody tr").inner_text().split("\t")
    assert row[:6] == ["0", "ravdess", "none", "58.3 (56.1–60.5)", "–", "–"] or row[3].startswith(
        "60.0"
    )
    assert drawn(page) == [] and drawn(page, panel="uar") == [(0, 0, 60)]


def test_page_of_runs_that_all_failed_has_no_figure(
    opened: Callable[[Path], Page], tmp_path: Path, results: Results
) -> None:
    folder = make_sweep(tmp_path / "a sweep", results)
    for number in range(5):
        (folder / str(number) / "results.json").unlink()
    write_page(folder)
    page = opened(folder)
    assert page.locator("figure").count() == 0
    assert "No run has results to draw." in page.locator("main").inner_text()
    chip(page, "corpus", "emodb").check(force=True)
    assert shown_runs(page) == [4]
