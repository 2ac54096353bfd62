import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from fedser.reports.run_figures import utility_figure
from fedser.reports.run_page import write_report
from fedser.results.files import write_results
from tests.fedser.reports.test_findings import NO_GUARANTEE, RECOGNITION, SECRET
from tests.studies import make_attack, make_results, make_rounds, write_run

Results = dict[str, Any]


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Text of the page of a run, for tests that change nothing in the run."""
    return page_text(write_run(tmp_path_factory.mktemp("run"), make_results()))


def page_text(run_dir: Path) -> str:
    """What a reader sees of the page, figures left out."""
    page = write_report(run_dir).read_text("utf-8")
    page = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def rewrite(run_dir: Path, results: Results) -> str:
    write_results(run_dir / "results.json", results)
    return page_text(run_dir)


def test_findings_show_three_figures_with_their_context(page: str) -> None:
    findings = page.split("Utility over rounds")[0]
    for text in (
        "58.3 % UAR",
        "Guessing gives 25 %",
        "5 folds, 56.1 % to 60.5 %",
        "AUC 0.90 → 0.96",
        "gender from 1 update: AUC 0.90 (95 % interval 0.85–0.95; correlation)",
        "gender from all updates: AUC 0.96 (95 % interval 0.93–0.99; correlation)",
        "strongest of 2 attacks",
        "too weak to rely on: ε = 105,307 at δ = 1e-5 for one client",
        "nominal ε = 25 at δ = 0.5",
    ):
        assert text in findings


def test_sections_come_in_order(run_dir: Path) -> None:
    page = write_report(run_dir).read_text("utf-8")
    parts = [
        'aria-label="Findings"',
        "UAR over rounds",
        "ROC curve",
        "AUC over the",
        "<th>Attack</th>",
    ]
    parts += [
        "Privacy statement",
        "Utility by fold",
        "files that were skipped",
        "Configuration",
        "Timing",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_attack_table_rounds_and_warns_of_a_missed_leak(page: str) -> None:
    row = "correlation gender first nemo, emodb no 5 0.95 0.91–0.98 0.008 84.1 % 50.2 %"
    rest = "71.3 % 79.2 % 68.8 % 0.12 50 10"
    assert f"{row} {rest} ↑ a fixed threshold misses this leak" in page
    assert f"centroid gender first nemo, emodb no all 0.62 – 0.008 84.1 % 60.0 % {rest}" in page
    assert page.count("misses this leak") == 3


def test_recognition_is_reported_by_its_equal_error_rate(run_dir: Path, results: Results) -> None:
    results["attacks"] = RECOGNITION
    write_results(run_dir / "results.json", results)
    text = page_text(run_dir)
    assert "EER 10.0 %" in text.split("Leakage")[1]
    for sentence in (
        "The adversary decides whether two sets of updates come from one client, from all updates "
        "on each side. The equal error rate is 10.0 %; guessing gives 50 %. ",
        "speaker across rounds from all updates: EER 10.0 %, AUC 0.90 (95 % interval 0.84–0.95; ",
        "speaker across shards from all updates: EER 21.0 %, AUC 0.79 (",
        "Updates AUC, 95 % interval EER, 95 % interval Clients, speakers",
        "correlation speaker across shards first nemo, emodb no 1 0.65 0.59–0.70 35.0 % "
        "30.0 %–41.0 % 50 10",
    ):
        assert sentence in text
    assert "reveal the speaker's" not in text and "strongest" not in text


def test_pages_of_attribute_attacks_say_nothing_of_recognition(page: str) -> None:
    assert "EER" not in page


def test_privacy_statement_names_all_that_an_epsilon_needs(page: str) -> None:
    statement = page.split("Privacy statement")[1]
    for text in (
        "Mechanism udp",
        "Unit client: all data of one client. There are 10 speakers, 50 clients, so a speaker",
        "two data sets differ in one client that is replaced by another",
        "Vantage (against whom) the server, which sees every update with its sender",
        "Accountant exact Gaussian composition",
        "Maximum releases of one client, all folds 20",
        "Cohorts fixed size: every round has the same number of clients",
        "Noise multiplier (standard deviation / sensitivity) –",
        "Clipping norm 0.25",
        "Noise source entropy of the operating system",
        "ε δ Nominal 25 0.5 Real, participation known 105,307 1e-5",
        "Real, one fold alone 60,156 1e-5",
        "Clipping gradients does not bound an Adam update.",
    ):
        assert text in statement
    assert "an observer who learns" not in statement


def test_secret_participation_shows_both_epsilons(run_dir: Path, results: Results) -> None:
    results["privacy"] |= SECRET
    findings, statement = rewrite(run_dir, results).split("Privacy statement")
    for text in (
        "ε δ Nominal none claimed – Real, participation secret 7.99 1e-5 "
        "Real, participation known, zero-out 24.9 1e-5 "
        "Real, participation known, replace-one 77.1 1e-5 Real, one fold alone 4.5 1e-5",
        "Participation is known to an observer who learns which clients took part",
        "Cohorts Poisson: each client joins a round independently",
        "(standard deviation / sensitivity) 1.13 Noise to signal (above 1 nothing is learned)",
        "Clipping norm 0.1",
        "Noise source entropy of the operating system",
    ):
        assert text in statement
    assert (
        "The formal guarantee is moderate: ε = 7.99 at δ = 1e-5 for one client if participation "
        "is secret. If participation is known, ε is 24.9. The guarantee holds against whoever sees "
        "the models of all rounds; not the server, which sees each update."
    ) in findings
    assert (
        "participation secret; if it is known: ε = 24.9 (zero-out), 77.1 (replace-one)" in findings
    )


def test_every_warning_is_shown(run_dir: Path, results: Results) -> None:
    results["privacy"]["warnings"] = [f"warning number {number}" for number in range(7)]
    text = rewrite(run_dir, results)
    assert " ".join(results["privacy"]["warnings"]) in text


def test_page_shows_folds_files_versions_and_timing(page: str) -> None:
    for shown in (
        "4 60.5 % 25.0 % 60.0 % 62.0 % 34 s09, s10",
        "Recordings left out: 200 calm: 192 tied vote: 8",
        "Unreadable files that were skipped: 2 03-01-broken.wav empty.wav",
        "privacy: epsilon: 25 name: udp",
        "flwr 1.41.0",
        "Rounds per second 3.46",
        "Shadow 201.2 s",
        "Rounds with an empty cohort 5 Rejected updates 5",
    ):
        assert shown in page


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
        "5 dtype: an array is not of the type that its mechanism sends Utterances"
    ) in text


LACKING = np.diag([3, 0, 3, 3]).tolist()
"""Confusion matrix of a fold without one emotion."""


def dotted(axes: Axes) -> list[float]:
    """Heights of the lines that show guessing."""
    return [line.get_ydata()[0] for line in axes.lines if line.get_label() == "chance"]


def test_chance_follows_the_folds_in_figure_and_finding(run_dir: Path, results: Results) -> None:
    for fold in results["utility"]["per_fold"]:
        fold["confusion"] = LACKING
    results["utility"]["uar"] = 0.36
    figure = utility_figure(make_rounds().query("role == 'private'"), results)
    assert figure is not None and dotted(figure.axes[0]) == pytest.approx([100 / 3])
    text = rewrite(run_dir, results)
    assert "Emotion recognition is close to guessing: UAR 36.0 %, guessing 33 %." in text
    assert "chance 33 %" in text and "4 60.5 % 33.3 % 60.0 %" in text


def test_run_without_attacks_or_guarantee_says_so(run_dir: Path, results: Results) -> None:
    write_report(run_dir)
    results["attacks"] = []
    results["privacy"] |= {**NO_GUARANTEE, "mechanism": "none"}
    text = rewrite(run_dir, results)
    assert "No attack was run. Nothing is known" in text
    assert "No formal privacy guarantee holds for this run." in text
    assert "ε δ Nominal none claimed – Real no guarantee –" in text
    assert "Vantage the server, which sees every update with its sender" in text
    assert "Clipping norm – Noise source none" in text
    assert [path.name for path in (run_dir / "figures").iterdir()] == ["utility.png"]


def test_attack_at_chance_is_not_called_a_leak_nor_a_proof(run_dir: Path, results: Results) -> None:
    results["attacks"] = [make_attack(auc=0.56, ci95_auc=[0.42, 0.7])]
    text = rewrite(run_dir, results)
    assert "No attack shows that the updates reveal the speaker's gender (best AUC 0.56" in text
    assert "With 10 speakers this does not prove" in text
    assert "misses" not in text


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
    assert "stay below the ε of the accountant" in page
    assert "100 canaries, participation known, 2 releases, 3 times the clipping norm" in page
    assert "ε at least 1.23, estimated 2.25; the accountant computes 2.5" in page
    exact = check | {"epsilon_clopper_pearson_lower": 9.0, "violated": True}
    tests["tests"] = [
        {"name": "variance", "of": "a <b>", "statistic": 0.5, "p_value": 1e-9, "failed": True},
        {"name": "clip", "of": "all", "statistic": 1.0, "p_value": None, "failed": False},
    ]
    results["audit"] = {"checks": [exact], "violated": True, **tests}
    page = rewrite(run_dir, results)
    assert "The mechanism is broken." in page and "(9.00 without a distribution)" in page
