"""What a guarantee will leave, before any training."""

import io
import math
import re
from contextlib import redirect_stderr

import pytest

from fedser.client.privacy.gaussian import gaussian_mu
from fedser.common.errors import UserError
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


@pytest.fixture(scope="module")
def planned():
    """What the stage prints for all clients at epsilon 2, which the table does not depend on."""
    printed = io.StringIO()
    with redirect_stderr(printed):
        plan_study(study(*EVERYBODY, "privacy.epsilon=2"))
    return printed.getvalue()


def test_the_table_holds_the_ratio_of_noise_to_signal(planned):
    sizes = [15, 30, 60, 120, 240, 960]
    found = rows_of(planned)
    assert [row[0] for row in found] == sizes
    for clients, *ratios in found:
        for epsilon, ratio in zip((1, 2, 4, 8), ratios, strict=True):
            noise_multiplier = math.sqrt(10) / gaussian_mu(epsilon, 1e-5)
            expected = noise_multiplier / clients * math.sqrt(4 * 97 / 10)
            assert ratio == pytest.approx(expected, rel=0.06)  # two digits are shown
    assert "60 clients, 60 in each of 10 rounds, 388 weights shared" in planned


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


def test_the_number_of_clients_that_are_needed_reaches_the_goal(planned):
    needed = int(re.search(r"to keep 80 % .*, ([\d,]+) clients", planned)[1].replace(",", ""))
    config = study(*EVERYBODY, "privacy.epsilon=2")
    ratio = deployment_plan(config, needed, 96).noise_to_signal
    assert GOAL <= kept(ratio) < GOAL + 0.01


def test_a_hopeless_plan_and_a_large_delta_are_named(capsys):
    small = ["plan.clients=200", "privacy.delta=0.001", "rounds=5"]
    plan_study(study("privacy=local", "privacy.epsilon=1", *small))
    printed = capsys.readouterr().err
    assert "286,596 weights shared" in printed  # of 988 features, counted on a second of noise
    assert "expect to learn nothing" in printed
    assert "δ = 0.001 is large for 200 clients: set privacy.delta to 1e-4 or less" in printed


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


MIXED = [
    *("model=linear", "public=[made]", "cohort_fraction=0.1", "rounds=50", "plan.clients=300"),
    *("privacy=central", "privacy.epsilon=2", "privacy.clipping_norm=0.4"),
]


def test_mechanisms_are_compared_at_one_epsilon(capsys):
    plan_study(study(*MIXED))
    printed = capsys.readouterr().err
    table = printed[printed.index("noise to signal of mechanisms, ε = 2") :]
    rows = [
        line.split()
        for line in table.splitlines()
        if re.match(r" +(local|central|distributed)", line)
    ]
    assert [row[:2] for row in rows] == [
        ["local", "known"],
        ["central", "known"],
        ["central", "secret"],
        ["central_matrix", "known"],
        ["central_matrix", "secret"],
        ["distributed", "known"],
    ]
    assert "30 a round   90 a round   300 a round" in table
    for mechanism, vantage, relation, row in (
        ("central", "sum", "zero_out", rows[1]),
        ("central_matrix", "sum", "zero_out", rows[3]),
    ):
        for fraction, shown in ((0.1, row[2]), (1.0, [c for c in row[2:] if c != "*"][2])):
            config = study(
                *(*MIXED, f"cohort_fraction={fraction}", f"privacy={mechanism}"),
                *(f"privacy.vantage={vantage}", f"privacy.relation={relation}"),
            )
            ratio = deployment_plan(config, 300, 96).noise_to_signal
            assert float(shown) == pytest.approx(ratio, rel=0.06)
    # if everybody takes part there are no turns, and all central mechanisms are one
    assert [row[-1] for row in rows[1:5]] == ["*"] * 4
    # a tenth may vanish and a tenth may tell its noise: all 300 add more than the sum needs
    central, distributed = (float([c for c in rows[i] if c != "*"][-1]) for i in (1, 5))
    assert distributed == pytest.approx(central * (300 / 240) ** 0.5, rel=0.06)


def test_cohorts_of_one_client_have_no_distributed_sum(capsys):
    plan_study(study(*MIXED, "plan.clients=10"))
    (row,) = (r for r in capsys.readouterr().err.splitlines() if r.split()[:1] == ["distributed"])
    assert row.split()[2] == "–" and float(row.split()[3]) > 0


def test_mechanisms_are_compared_only_at_an_epsilon(capsys):
    plan_study(study(*MIXED, "privacy.epsilon=null", "privacy.noise_multiplier=1"))
    assert "mechanisms" not in capsys.readouterr().err
