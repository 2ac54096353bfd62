from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
import yaml

from fedser.conf.build import compose
from fedser.conf.privacy_points import PRIVACY_POINTS
from fedser.server.study.run import study_config
from tests.fedser.reports.sweep.sweeps import read_table

FRONTIER = ["none", *PRIVACY_POINTS]


def test_frontier_sweeps_over_every_point_once() -> None:
    experiment = resources.files("fedser.conf").joinpath("experiment", "privacy_frontier.yaml")
    hydra = yaml.safe_load(experiment.read_text("utf-8"))["hydra"]
    swept = [name.strip() for name in hydra["sweeper"]["params"]["privacy"].split(",")]
    assert sorted(swept) == sorted(FRONTIER)
    assert hydra["mode"] == "MULTIRUN"
    assert swept == [
        "none",
        *(f"udp_{epsilon}" for epsilon in (50, 25, 10, 5)),
        *(f"central_{epsilon}" for epsilon in (1, 2, 4, 8)),
        *(f"central_adaptive_{epsilon}" for epsilon in (1, 2, 4, 8)),
        *("central_matrix_8", "distributed_8", "local_8", "local_16", "dp_sgd_8", "layered_8"),
    ]


@pytest.mark.parametrize("point", FRONTIER)
def test_point_of_the_frontier_is_a_study_that_may_run(point: str) -> None:
    config = study_config(compose(["experiment=privacy_frontier", f"privacy={point}"]))
    mechanism, _, epsilon = point.rpartition("_")
    assert config.privacy.mechanism == (mechanism or "none")
    assert config.privacy.epsilon == (float(epsilon) if mechanism else None)
    assert config.corpus["name"] == "nemo"
    assert config.shadow == ["ravdess", "emodb"]


def test_point_and_defaults_of_the_frontier_can_be_overridden() -> None:
    changes = ["privacy=udp_50", "privacy.epsilon=7", "corpus=emodb", "shadow=[nemo]"]
    config = study_config(compose(["experiment=privacy_frontier", *changes]))
    assert (config.privacy.mechanism, config.privacy.epsilon) == ("udp", 7)
    assert (config.corpus["name"], config.shadow) == ("emodb", ["nemo"])


def test_frontier_is_a_multirun_by_itself(
    tmp_path: Path, command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["corpus=synthetic", "corpus.speakers=6", "corpus.utterances_per_speaker=4"]
    changes = ["privacy=none,udp_50", "shadow=[]", "stage=check", f"cache={tmp_path / 'cache'}"]
    status, printed = command("experiment=privacy_frontier", *small, *changes)
    assert status == 0 and printed.count("6 speakers") == 2
    runs = sorted(path.parent for path in tmp_path.glob("multirun/*/*/*/.hydra"))
    assert [run.name for run in runs] == ["0", "1"]
    configs = [yaml.safe_load((run / ".hydra" / "config.yaml").read_text()) for run in runs]
    assert [config["privacy"]["mechanism"] for config in configs] == ["none", "udp"]
    assert configs[1]["privacy"]["epsilon"] == 50
    assert list(read_table(runs[0].parent)["privacy"]) == ["none", "udp_50"]
