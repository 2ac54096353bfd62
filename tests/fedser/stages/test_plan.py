"""What a guarantee will leave, before any training."""

import math
import re

import pytest

from fedser.common.errors import UserError
from fedser.server.privacy.gaussian import gaussian_mu
from fedser.server.study.federations import deployment_plan
from fedser.stages.plan import GOAL, kept, plan_study, scaled
from tests.server.study.test_federations import study

EVERYBODY = [
    *("model=linear", "public=[made]", "cohort_fraction=1", "rounds=10", "plan.clients=60"),
    *("privacy=central", "privacy.vantage=sum", "privacy.relation=zero_out", "privacy.epsilon=8"),
]


def rows_of(printed):
    """The cells of the table: one list of numbers per row, without the shares."""
    rows = [line.split() for line in printed.splitlines() if re.match(r" +[\d,]+ {2}", line)]
    return [[float(c.replace(",", "")) for c in row if not re.search(r"[()%]", c)] for row in rows]


def test_the_table_holds_the_ratio_of_noise_to_signal(capsys):
    plan_study(study(*EVERYBODY))
    printed = capsys.readouterr().err
    sizes = [15, 30, 60, 120, 240, 960]
    found = rows_of(printed)
    assert [row[0] for row in found] == sizes
    for clients, *ratios in found:
        for epsilon, ratio in zip((1, 2, 4, 8), ratios, strict=True):
            noise_multiplier = math.sqrt(10) / gaussian_mu(epsilon, 1e-5)
            expected = noise_multiplier / clients * math.sqrt(4 * 97 / 10)
            assert ratio == pytest.approx(expected, rel=0.06)  # two digits are shown
    assert "60 clients, 60 in each of 10 rounds, 388 weights shared" in printed


@pytest.mark.parametrize(
    "changes",
    [
        EVERYBODY,
        [*EVERYBODY, "privacy.unit=speaker", "corpus.shards=3"],
        [*EVERYBODY[:5], "privacy=local", "privacy.epsilon=8"],
        [
            *EVERYBODY[:2],
            "cohort_fraction=0.5",
            "rounds=20",
            "privacy=central",
            "privacy.epsilon=8",
        ],
    ],
)
@pytest.mark.parametrize("factor", [2, 10])
def test_other_sizes_follow_from_one_plan(changes, factor):
    config = study(*changes)
    one, more = (deployment_plan(config, n, 96) for n in (60, 60 * factor))
    assert scaled(one.noise_to_signal, one, factor) == pytest.approx(more.noise_to_signal, rel=1e-6)


def test_the_number_of_clients_that_are_needed_reaches_the_goal(capsys):
    plan_study(study(*EVERYBODY, "privacy.epsilon=2"))
    printed = capsys.readouterr().err
    needed = int(re.search(r"to keep 80 %, ([\d,]+) clients", printed)[1].replace(",", ""))
    config = study(*EVERYBODY, "privacy.epsilon=2")
    ratio = deployment_plan(config, needed, 96).noise_to_signal
    assert GOAL <= kept(ratio) < GOAL + 0.01


def test_a_hopeless_plan_and_a_large_delta_are_named(capsys):
    plan_study(study("privacy=local", "privacy.epsilon=1", "plan.clients=20000"))
    printed = capsys.readouterr().err
    assert "286,596 weights shared" in printed  # of 988 features, counted on a second of noise
    assert "expect to learn nothing" in printed
    assert "δ = 1e-05 is large for 20,000 clients: set privacy.delta to 1e-6 or less" in printed


@pytest.mark.parametrize("privacy", ["none", "udp_50", "dp_sgd_8"])
def test_mechanisms_without_noise_on_updates_cannot_be_planned(privacy):
    with pytest.raises(UserError, match="stage=plan: privacy=.* has no calibrated noise"):
        plan_study(study(f"privacy={privacy}", "plan.clients=9"))


def test_the_command_plans_for_the_corpus_and_leaves_no_files(fedser, tmp_path):
    changes = ["corpus.speakers=10", "corpus.utterances_per_speaker=8", "public=[synthetic_de]"]
    status, printed = fedser(
        "stage=plan", *changes, *EVERYBODY[:1], *EVERYBODY[2:4], *EVERYBODY[5:]
    )
    assert status == 0 and "10 clients, 10 in each of 10 rounds" in printed, printed
    assert not list(tmp_path.glob("outputs/*/*/*"))
    status, printed = fedser("stage=plan", "plan.clients=0", "privacy=central_8")
    assert status == 2 and "plan.clients=0 must be at least 1" in printed
