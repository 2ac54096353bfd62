import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from fedser.common.errors import UserError
from fedser.reports.findings import attack_remark, leakage_finding, privacy_finding
from fedser.reports.numbers import delta_text, p_text
from fedser.reports.run_figures import leakage_figure, utility_figure
from fedser.reports.run_page import write_report
from fedser.reports.terminal import summary_table
from fedser.results.attacks import attack_series
from fedser.results.files import write_results
from fedser.results.rounds import read_rounds
from fedser.server.privacy.statement import epsilon_text
from tests.studies import make_attack, make_rounds, make_verification, points

Results = dict[str, Any]

CHROMIUM = shutil.which("chromium")
NO_GUARANTEE = dict.fromkeys(
    ("unit", "relation", "delta", "epsilon", "participation", "nominal_epsilon", "nominal_delta")
    + ("accountant", "clipping_norm", "noise", "epsilon_one_federation", "composition", "units")
)
SECRET = {
    "mechanism": "central",
    "relation": "add_remove",
    "vantage": "whoever sees the models of all rounds; not the server, which sees each update",
    "epsilon": 7.99,
    "epsilon_one_federation": 4.5,
    "epsilon_known_participation": 24.84,
    "epsilon_known_replace_one": 77.03,
    "participation": "secret",
    "nominal_epsilon": None,
    "nominal_delta": None,
    "accountant": "privacy loss distribution",
    "sampling": "poisson",
    "noise_multiplier": 1.1304,
    "clipping_norm": 0.1,
    "noise": "system",
}


def page_text(run_dir: Path) -> str:
    """What a reader sees of the page, figures left out."""
    page = write_report(run_dir).read_text("utf-8")
    page = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def rewrite(run_dir: Path, results: Results) -> str:
    write_results(run_dir / "results.json", results)
    return page_text(run_dir)


def test_verdict_shows_the_three_figures_with_their_context(run_dir: Path) -> None:
    verdict = page_text(run_dir).split("Utility over rounds")[0]
    for text in (
        "58.3 % UAR",
        "guessing gives 25 %",
        "5 folds, 56.1 % to 60.5 %",
        "AUC 0.90 → 0.96",
        "gender from 1 update: AUC 0.90 (95 % interval 0.85–0.95; correlation)",
        "gender from all updates: AUC 0.96 (95 % interval 0.93–0.99; correlation)",
        "strongest of 2 attacks",
        "too weak to rely on: ε = 105,307 at δ = 1e-5 for one client",
        "nominal ε = 25 at δ = 0.5",
    ):
        assert text in verdict


def test_sections_come_in_order(run_dir: Path) -> None:
    page = write_report(run_dir).read_text("utf-8")
    parts = ["Verdict", "UAR over rounds", "ROC curve", "AUC over the", "<th>Attack</th>"]
    parts += ["Privacy statement", "Utility by fold", "Skipped files", "Configuration", "Timing"]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_attack_table_rounds_every_column_and_remarks_the_overlooked_leak(run_dir: Path) -> None:
    text = page_text(run_dir)
    row = "correlation gender first nemo, emodb no 5 0.95 0.91–0.98 0.008 84.1 % 50.2 %"
    rest = "71.3 % 79.2 % 68.8 % 0.12 50 10"
    assert f"{row} {rest} ↑ a fixed threshold overlooks this leak" in text
    assert f"centroid gender first nemo, emodb no all 0.62 – 0.008 84.1 % 60.0 % {rest}" in text
    assert text.count("overlooks this leak") == 3


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({}, "a fixed threshold overlooks this leak"),
        ({"uar_fixed": 0.56}, ""),
        ({"ci95_auc": [0.49, 0.95]}, ""),
        ({"ci95_auc": None}, "a fixed threshold overlooks this leak"),
        ({"ci95_auc": None, "auc": 0.59}, ""),
        ({"auc": None, "ci95_auc": None}, "no AUC"),
        ({"auc": 0.2, "ci95_auc": [0.1, 0.4]}, "ranks victims the wrong way round, so the attri"),
        (make_verification(), ""),
        (make_verification(auc=None, eer=None), "no AUC: no two sets of updates are of one client"),
        (make_verification(across="shards", auc=None), "no two clients are of one speaker"),
        (make_verification(auc=0.2, ci95_auc=[0.1, 0.4]), "ranks pairs the wrong way round"),
    ],
)
def test_remark(changes: dict[str, Any], remark: str) -> None:
    found = attack_remark(make_attack(**changes))
    assert remark in found
    assert bool(remark) == bool(found)


def recognition(across: str, leaked: int | str, eer: float | None) -> dict[str, Any]:
    ends = None if eer is None else [eer - 0.05, eer + 0.06]
    auc = None if eer is None else 1 - eer
    low = None if auc is None else [auc - 0.06, auc + 0.05]
    figures = {"auc": auc, "ci95_auc": low, "eer": eer, "ci95_eer": ends}
    return make_verification(across=across, leaked_updates=leaked, **figures)


RECOGNITION = [
    recognition("rounds", 1, 0.3),
    recognition("rounds", "all", 0.1),
    recognition("shards", 1, 0.35),
    recognition("shards", "all", 0.21),
]


def test_recognition_is_reported_by_its_equal_error_rate(run_dir: Path, results: Results) -> None:
    results["attacks"] = RECOGNITION
    write_results(run_dir / "results.json", results)
    text = page_text(run_dir)
    assert "EER 10.0 %" in text.split("Leakage")[1]
    for sentence in (
        "From all updates a side, the adversary tells whether two sets of updates are of one "
        "client with an equal error rate of 10.0 %; guessing gives 50 %.",
        "speaker across rounds from all updates: EER 10.0 %, AUC 0.90 (95 % interval 0.84–0.95; ",
        "speaker across shards from all updates: EER 21.0 %, AUC 0.79 (",
        "Updates AUC, 95 % interval EER, 95 % interval Clients, speakers",
        "correlation speaker across shards first nemo, emodb no 1 0.65 0.59–0.70 35.0 % "
        "30.0 %–41.0 % 50 10",
    ):
        assert sentence in text
    assert "gives the speaker's" not in text and "strongest" not in text


def test_pages_of_attribute_attacks_say_nothing_of_recognition(run_dir: Path) -> None:
    assert "EER" not in page_text(run_dir)


@pytest.mark.parametrize(
    ("attacks", "figure", "said"),
    [
        ([*RECOGNITION, make_attack()], "AUC 0.90", "speaker's gender away"),
        ([recognition("rounds", 1, None), RECOGNITION[3]], "EER 21.0", "two clients are of one"),
        ([recognition("shards", 1, None)], "undefined", "no pairs to tell apart"),
        ([recognition("rounds", 1, 0.46)], "EER 46.0", "this is not proven to be less"),
    ],
)
def test_verdict_on_recognition(attacks: list[dict[str, Any]], figure: str, said: str) -> None:
    finding = leakage_finding(attack_series(attacks))
    assert finding.figure.startswith(figure) and said in finding.sentence


def test_summary_shows_the_error_rate_of_recognition(results: Results) -> None:
    def shown(attacks: list[dict[str, Any]]) -> dict[str, list[str]]:
        columns = summary_table(results | {"attacks": attacks}).columns
        return {str(column.header): [str(cell) for cell in column.cells] for column in columns}

    table = shown([*RECOGNITION[2:], recognition("rounds", 1, None)])
    across = [f"correlation, speaker across {w}" for w in ("shards", "shards", "rounds")]
    assert table["attack"] == across
    assert table["EER"] == ["0.350", "0.210", ""]
    assert table["AUC"] == ["0.650", "0.790", ""]
    assert "EER" not in shown([make_attack()])


def test_privacy_statement_names_all_that_an_epsilon_needs(run_dir: Path) -> None:
    statement = page_text(run_dir).split("Privacy statement")[1]
    for text in (
        "Mechanism udp",
        "Unit client: everything one client holds; 10 speakers hold 50 clients, so a speaker",
        "data sets differ by one client replaced by another",
        "Vantage (against whom) the server, which sees every update with its sender",
        "Accountant exact Gaussian composition",
        "at most, in all folds 20",
        "Cohorts fixed size: every round has as many clients",
        "Noise multiplier (standard deviation / sensitivity) –",
        "Clipping norm 0.25",
        "Noise source entropy of the operating system",
        "ε δ Nominal 25 0.5 Real, participation known 105,307 1e-5",
        "Real, one fold alone 60,156 1e-5",
        "Clipping gradients does not bound an Adam update.",
    ):
        assert text in statement
    assert "an observer who learns" not in statement


def test_both_epsilons_of_a_secret_participation_stand_side_by_side(
    run_dir: Path, results: Results
) -> None:
    results["privacy"] |= SECRET
    verdict, statement = rewrite(run_dir, results).split("Privacy statement")
    for text in (
        "ε δ Nominal none claimed – Real, participation secret 7.99 1e-5 "
        "Real, participation known, zero-out 24.9 1e-5 "
        "Real, participation known, replace-one 77.1 1e-5 Real, one fold alone 4.5 1e-5",
        "Participation is known to an observer who learns which clients took part",
        "Cohorts Poisson: each client joins a round independently",
        "(standard deviation / sensitivity) 1.13 Clipping norm 0.1",
        "Noise source entropy of the operating system",
    ):
        assert text in statement
    assert (
        "The formal guarantee is moderate: ε = 7.99 at δ = 1e-5 for one client while participation "
        "is secret, ε = 24.9 once it is known. It holds against whoever sees the models of all "
        "rounds; not the server, which sees each update."
    ) in verdict
    assert "participation secret, ε = 24.9 once known" in verdict


def test_every_warning_is_shown(run_dir: Path, results: Results) -> None:
    results["privacy"]["warnings"] = [f"warning number {number}" for number in range(7)]
    text = rewrite(run_dir, results)
    assert " ".join(results["privacy"]["warnings"]) in text


def test_folds_files_configuration_versions_and_timing_are_shown(run_dir: Path) -> None:
    text = page_text(run_dir)
    for shown in (
        "4 60.5 % 25.0 % 60.0 % 62.0 % 34 s09, s10",
        "Recordings left out: 200 calm: 192 tied vote: 8",
        "Skipped files: 2 unreadable 03-01-broken.wav empty.wav",
        "privacy: epsilon: 25 name: udp",
        "flwr 1.41.0",
        "Rounds a second 3.46",
        "Shadow 201.2 s",
        "Rounds with an empty cohort 5 Rejected updates 5",
    ):
        assert shown in text


def test_the_reasons_of_rejections_are_named_most_first(run_dir: Path, results: Results) -> None:
    rounds = make_rounds()
    at = rounds["round"] == 7
    rounds = rounds.assign(rejected_dtype=at * 1, rejected_loss=0, rejected_duplicate=at * 2)
    rounds.loc[at, "clients"] = 0  # somebody was asked: no empty cohort
    rounds.to_parquet(run_dir / "rounds.parquet")
    text = rewrite(run_dir, results)
    assert (
        "Rounds with an empty cohort 5 Rejected updates 5 "
        "10 duplicate: a second reply to a message "
        "5 dtype: an array is not of float32 Utterances"
    ) in text


def test_page_loads_nothing_and_escapes_what_it_shows(run_dir: Path, results: Results) -> None:
    results["corpus"]["name"] = "<script>alert(1)</script>"
    write_results(run_dir / "results.json", results)
    page = write_report(run_dir).read_text("utf-8")
    assert not re.search(r"https?://|<script|<link|<img|@import|src=", page)
    assert not re.search(r"url\((?!#)", page)
    assert "&lt;script&gt;" in page


def test_figures_are_images_with_something_on_them_and_inline_text(run_dir: Path) -> None:
    page = write_report(run_dir).read_text("utf-8")
    for name in ("utility", "roc", "leakage"):
        image = imread(run_dir / "figures" / f"{name}.png")[..., :3]
        assert min(image.shape[:2]) > 600
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    assert page.count("<svg") == 3
    assert page.count("n = 10 speakers, 50 clients") == 3


def test_utility_figure_draws_mean_and_range_over_folds(results: Results) -> None:
    rounds = make_rounds().query("role == 'private'")
    figure = utility_figure(rounds, results)
    assert figure is not None
    validation, test = figure.axes[0].lines[:2]
    expected = [100 * rounds.query("round == @r")["validation_uar"].mean() for r in range(1, 41)]
    assert points(validation)[1] == pytest.approx(expected)
    assert points(test)[0] == list(range(5, 41, 5))
    band = np.asarray(figure.axes[0].collections[1].get_paths()[0].vertices)
    assert np.ptp(band[np.isclose(band[:, 0], 40), 1]) == pytest.approx(4)  # folds are 1 % apart


LACKING = np.diag([3, 0, 3, 3]).tolist()
"""Confusion matrix of a fold without one emotion."""


def dotted(axes: Axes) -> list[float]:
    """Heights of the lines that show guessing."""
    return [line.get_ydata()[0] for line in axes.lines if line.get_label() == "chance"]


def test_chance_in_figure_and_verdict_is_that_of_the_folds(run_dir: Path, results: Results) -> None:
    for fold in results["utility"]["per_fold"]:
        fold["confusion"] = LACKING
    results["utility"]["uar"] = 0.36
    figure = utility_figure(make_rounds().query("role == 'private'"), results)
    assert figure is not None and dotted(figure.axes[0]) == pytest.approx([100 / 3])
    text = rewrite(run_dir, results)
    assert "Emotion recognition is near guessing: 36.0 % UAR against 33 %." in text
    assert "chance 33 %" in text and "4 60.5 % 33.3 % 60.0 %" in text


def test_leakage_figure_draws_auc_and_interval_in_the_order_of_leaks(results: Results) -> None:
    figure = leakage_figure(attack_series(results["attacks"]))
    assert figure is not None
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "5", "all"]
    assert points(axes.lines[0])[1] == [0.903, 0.951, 0.962]
    bars = [np.asarray(b.get_paths()[0].vertices)[:, 1].tolist() for b in axes.collections]
    assert bars == [[0.851, 0.948], [0.91, 0.98], [0.925, 0.991], [0.43, 0.74]]


def test_run_without_attacks_or_guarantee_says_so(run_dir: Path, results: Results) -> None:
    write_report(run_dir)
    results["attacks"] = []
    results["privacy"] |= {**NO_GUARANTEE, "mechanism": "none"}
    text = rewrite(run_dir, results)
    assert "No attack was run, so nothing is known" in text
    assert "No formal privacy guarantee holds for this run." in text
    assert "ε δ Nominal none claimed – Real no guarantee –" in text
    assert "Vantage the server, which sees every update with its sender" in text
    assert "Clipping norm – Noise source none" in text
    assert [path.name for path in (run_dir / "figures").iterdir()] == ["utility.png"]


@pytest.mark.parametrize(
    ("changes", "caption"),
    [
        ({}, "epsilon 105,307 at delta 1e-5 per client"),
        (
            SECRET,
            "epsilon 7.99 at delta 1e-5 per client while participation is secret (24.9 once known)",
        ),
        (NO_GUARANTEE, "no guarantee"),
    ],
)
def test_printed_summary_ends_with_the_guarantee(
    results: Results, changes: Results, caption: str
) -> None:
    results["privacy"] |= changes
    assert summary_table(results).caption == f"test UAR 0.583 over 5 fold(s); {caption}"


def test_nominal_epsilon_alone_is_no_guarantee(results: Results) -> None:
    results["privacy"]["epsilon"] = None
    finding = privacy_finding(results)
    assert finding.figure == "no guarantee"
    assert "the nominal ε = 25 at δ = 0.5 is not a proven bound" in finding.sentence


@pytest.mark.parametrize(
    ("epsilon", "delta", "strength"),
    [(0.9, 1e-5, "strong"), (8.0, 1e-5, "moderate"), (10.1, 1e-5, "too weak"), (0.9, 0.5, "void")],
)
def test_strength_of_a_guarantee(
    results: Results, epsilon: float, delta: float, strength: str
) -> None:
    results["privacy"] |= {"epsilon": epsilon, "delta": delta}
    assert f"guarantee is {strength}" in privacy_finding(results).sentence


def test_attack_at_chance_is_not_called_a_leak_nor_a_proof(run_dir: Path, results: Results) -> None:
    results["attacks"] = [make_attack(auc=0.56, ci95_auc=[0.42, 0.7])]
    text = rewrite(run_dir, results)
    assert "No attack shows that the updates give the speaker's gender away (AUC 0.56" in text
    assert "with 10 speakers this does not prove" in text
    assert "overlooks" not in text


def test_undefined_auc(run_dir: Path, results: Results) -> None:
    undefined = dict.fromkeys(("auc", "ci95_auc", "roc", "uar_fixed", "uar_calibrated"))
    undefined |= dict.fromkeys(("tpr_at_fpr_01", "tpr_at_fpr_10", "advantage", "ece", "p_value"))
    results["attacks"] = [make_attack(**undefined)]
    text = rewrite(run_dir, results)
    assert "The attacks have no AUC" in text
    assert "correlation gender first nemo, emodb no 1 – – – – – – – – – 50 10 ↑ no AUC" in text


def test_one_fold_with_columns_absent_or_without_numbers(run_dir: Path, results: Results) -> None:
    rounds = make_rounds(folds=1).drop(columns=["test_uar", "rejected", "clients"])
    rounds.assign(validation_uar=None).to_parquet(run_dir / "rounds.parquet")
    results["utility"] |= {"uar": None, "accuracy": None, "best_round": None, "per_fold": []}
    text = rewrite(run_dir, results)
    assert "Emotion recognition was not measured." in text
    assert "No round was evaluated." in text
    assert "Rounds, all folds 40 Rounds with an empty cohort 0 Rejected updates 0" in text


def test_audit_is_shown(run_dir: Path, results: Results) -> None:
    check = {
        "canaries": 100,
        "participation": "known",
        "releases": 2,
        "magnitude": 3.0,
        "confidence": 0.99,
        "epsilon_upper": 2.5,
        "epsilon_plug_in": 2.25,
        "epsilon_gaussian_lower": 1.23456,
        "epsilon_clopper_pearson_lower": None,
        "violated": False,
    }
    tests = {"tests": [], "tested": ["the clip"], "not_tested": ["timing"]}
    results["audit"] = {"checks": [check], "violated": False, **tests}
    page = rewrite(run_dir, results)
    assert "stays below what the accountant" in page
    assert "100 canaries, participation known, 2 release(s), 3 times the clip" in page
    assert "ε at least 1.23, estimated 2.25, accounted for 2.5" in page
    exact = check | {"epsilon_clopper_pearson_lower": 9.0, "violated": True}
    tests["tests"] = [
        {"name": "variance", "of": "a <b>", "statistic": 0.5, "p_value": 1e-9, "failed": True},
        {"name": "clip", "of": "all", "statistic": 1.0, "p_value": None, "failed": False},
    ]
    results["audit"] = {"checks": [exact], "violated": True, **tests}
    page = rewrite(run_dir, results)
    assert "The mechanism is broken." in page and "(9.00 without a distribution)" in page


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "rounds of training are missing; run fedser stage=train"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "not a complete Parquet file"),
        (lambda path: pd.DataFrame({"round": [1]}).to_parquet(path), "'fold', 'role'"),
    ],
)
def test_damaged_rounds_are_a_one_line_user_error(run_dir: Path, damage: Any, message: str) -> None:
    path = run_dir / "rounds.parquet"
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        read_rounds(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.5312, "0.532"),
        (26.4, "26.4"),
        (1082.3, "1,083"),
        (8.0049, "8.01"),
        (7.9999999, "8"),
        (8.3, "8.3"),
        (105306.0, "105,306"),
        (0.0, "0"),
        (None, "–"),
    ],
)
def test_epsilon_text(epsilon: float | None, text: str) -> None:
    assert epsilon_text(epsilon) == text


@pytest.mark.parametrize(
    ("p_value", "text"), [(1 / 5001, "<0.001"), (0.001, "0.001"), (1 / 126, "0.008"), (None, "–")]
)
def test_p_text(p_value: float | None, text: str) -> None:
    assert p_text(p_value) == text


@pytest.mark.parametrize(("delta", "text"), [(1e-5, "1e-5"), (1e-10, "1e-10"), (0.5, "0.5")])
def test_delta_text(delta: float, text: str) -> None:
    assert delta_text(delta) == text


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
