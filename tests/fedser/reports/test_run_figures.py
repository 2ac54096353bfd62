from typing import Any

import numpy as np
import pytest

from fedser.reports.run_figures import leakage_figure, utility_figure
from fedser.results.attacks import attack_series
from tests.studies import make_rounds, points

Results = dict[str, Any]


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


def test_leakage_figure_draws_auc_over_leaked_updates(results: Results) -> None:
    figure = leakage_figure(attack_series(results["attacks"]))
    assert figure is not None
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "5", "all"]
    assert points(axes.lines[0])[1] == [0.903, 0.951, 0.962]
    bars = [np.asarray(b.get_paths()[0].vertices)[:, 1].tolist() for b in axes.collections]
    assert bars == [[0.851, 0.948], [0.91, 0.98], [0.925, 0.991], [0.43, 0.74]]
