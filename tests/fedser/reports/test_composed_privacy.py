import copy
import math

import pytest

from fedser.client.privacy.gaussian import gaussian_epsilon
from fedser.reports.composed_privacy import compose_runs, composition_sentences
from fedser.server.privacy.composition import Releases, composed_epsilon
from tests.server.privacy import privacy_loss

SAMPLED = {"count": 40.0, "rate": 0.1, "clients": 1}
KNOWN = {"count": 20.0, "rate": 1.0, "clients": 1}


def run(results, releases, noise_multiplier, **privacy):
    made = copy.deepcopy(results)
    composition = {"noise_multiplier": noise_multiplier, "releases": releases}
    made["privacy"] |= {"composition": composition, "epsilon": 1.0, "noise": "system", **privacy}
    return made


def test_known_releases_of_several_runs_compose_exactly(results):
    runs = [run(results, [KNOWN], 4.0), run(results, [KNOWN], 3.0), run(results, [KNOWN], 9.0)]
    (found,) = compose_runs(runs)
    mu = math.sqrt(20 * (1 / 16 + 1 / 9 + 1 / 81))
    assert found.epsilon == pytest.approx(gaussian_epsilon(mu, 1e-5))
    assert (found.runs, found.unit, found.corpus) == (3, "client", "ravdess")


def test_sampled_runs_compose_as_in_another_accountant(results):
    runs = [run(results, [SAMPLED], noise) for noise in (1.0, 2.0)]
    (found,) = compose_runs(runs)
    expected = privacy_loss.epsilon([(0.1, 1, 40, 1.0), (0.1, 1, 40, 2.0)], 1e-5)
    assert found.epsilon == pytest.approx(expected, rel=5e-3)
    shown = math.ceil(found.epsilon * 100) / 100
    assert composition_sentences(runs) == [
        f"2 runs on ravdess spend together ε = {shown:g} at δ = 1e-5 for one client "
        "(replace-one, participation known)."
    ]


def test_a_run_with_several_kinds_of_units_counts_for_the_worst(results):
    kinds = [{"count": 40.0, "rate": 0.25, "clients": 1}, {"count": 8.0, "rate": 0.5, "clients": 1}]
    (found,) = compose_runs([run(results, kinds, 1.5)])
    alone = [composed_epsilon(Releases(**kind), 1.5, 1e-5, "pld") for kind in kinds]
    assert found.epsilon == pytest.approx(max(alone))


def test_runs_for_different_units_do_not_compose(results):
    runs = [run(results, [KNOWN], 4.0), run(results, [KNOWN], 4.0, unit="speaker")]
    assert [found.runs for found in compose_runs(runs)] == [1, 1]
    assert "do not compose to one epsilon" in composition_sentences(runs)[-1]


@pytest.mark.parametrize("without", [{"epsilon": None}, {"noise": "seeded"}])
def test_run_without_protection_has_its_own_sentence(results, without):
    runs = [run(results, [KNOWN], 4.0), run(results, [KNOWN], 4.0, **without)]
    assert composition_sentences(runs)[-1] == (
        "1 run on ravdess has no guarantee. Nothing is guaranteed against an observer who sees all "
        "2 runs."
    )


def test_one_run_of_a_corpus_has_no_sentence(results):
    other = run(results, [KNOWN], 4.0)
    other["corpus"]["name"] = "nemo"
    assert composition_sentences([run(results, [KNOWN], 4.0), other]) == []
