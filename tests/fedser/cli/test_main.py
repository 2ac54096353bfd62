"""The command line: help, completion, messages for bad input, and signals."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from fedser.results.files import read_results
from tests import ROOT

TINY = [
    "corpus.speakers=10",
    "corpus.utterances_per_speaker=4",
    "shadow=[{corpus: synthetic_de, speakers: 10, utterances_per_speaker: 4}]",
    "cohort_fraction=0.5",
    "folds=[0]",
    "attack=statistics",
    "adversary.shadow_federations=2",
    "adversary.bootstraps=20",
]
FEDSER = [sys.executable, "-c", "from fedser.cli.main import main; main()"]


@pytest.fixture
def fedser(tmp_path, monkeypatch, command):
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return command


def test_help_lists_groups_keys_and_examples_on_80_columns(fedser):
    status, printed = fedser("--help")
    assert status == 0
    assert max(map(len, printed.splitlines())) <= 80
    assert "\n  attack: centroid, cnn, correlation, fusion, snapshot, statistics\n" in printed
    assert "\n  privacy: central, central_1," in printed and " udp_50\n" in printed
    assert "\n  fedser privacy=udp privacy.epsilon=25\n" in printed
    assert "\nadversary:\n  attribute: gender\n" in printed
    assert "docs/ beside the source" in printed and "hydra:" not in printed
    assert "\n  nominal_delta: 0.5\n" in fedser("privacy=udp", "--help")[1]


def test_a_background_command_of_a_script_ends():
    call = f"trap '' INT; exec {shlex.join([*FEDSER, '--help'])}"
    subprocess.run(["sh", "-c", call], check=True, capture_output=True, timeout=120)


def test_the_configuration_is_printed_and_resolved(fedser, monkeypatch):
    monkeypatch.setenv("FEDSER_DATA_ROOT", "/corpora")
    status, printed = fedser("--cfg", "job", "corpus=ravdess", "seed=3")
    assert status == 0
    plain = OmegaConf.create(printed)
    assert plain.seed == 3 and plain.corpus.root == "/corpora/ravdess"
    status, printed = fedser("--cfg", "job", "--resolve", "corpus=ravdess", "seed=3")
    assert status == 0 and "${" not in printed
    assert OmegaConf.create(printed) == OmegaConf.create(
        OmegaConf.to_container(plain, resolve=True)
    )


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("privacy=ud", "privacy=udp privacy=udp_10 privacy=udp_25 privacy=udp_5 privacy=udp_50"),
        ("corpus=synthetic_", "corpus=synthetic_de corpus=synthetic_pl"),
        ("privacy=udp privacy.nominal_", "privacy.nominal_delta="),
        ("attack=c", "attack=centroid attack=cnn attack=correlation"),
    ],
)
def test_completion(line, completed, fedser, monkeypatch):
    monkeypatch.setenv("COMP_LINE", f"fedser {line}")
    assert fedser("-sc", "query=bash") == (0, f"{completed}\n")


def test_completion_is_installed_for_fedser(fedser):
    status, printed = fedser("-sc", "install=bash")
    assert status == 0 and printed.splitlines()[-1].endswith(" hydra_bash_completion fedser")


WRONG = {
    "rouds=5": "rouds: no such key; did you mean rounds?",
    "privacy=udpp": "privacy=udpp: no such option; did you mean privacy=udp?",
    "privacy.epsilonn=5": "privacy.epsilonn: no such key; did you mean privacy.epsilon?",
    "adversary.leaked_update=3": (
        "adversary.leaked_update: no such key; did you mean adversary.leaked_updates?"
    ),
    "attack=[statstics]": "attack=statstics: no such option; did you mean attack=statistics?",
    "attack.statistics.max=5": ("attack.statistics.max: no such key; fedser --help lists all"),
    "normalisation=zzz": ("normalisation=zzz: no such option; choose one of corpus, none, speaker"),
    "+foo=1": "foo: no such key; fedser --help lists all",
    "+privacy.epsilom=1": "privacy.epsilom: no such key; did you mean privacy.epsilon?",
    "privcy=udp": "privcy: no such key; did you mean privacy?",
    "rounds=many": "rounds: Value 'many' of type 'str' could not be converted to Integer",
    "rounds": "rounds: cannot be read; write KEY=VALUE, in quotes if it has brackets or spaces",
    "shadow=[nemoo]": "corpus=nemoo: no such option; did you mean corpus=nemo?",
    "shadow=[{corpus: nemo, shard: 2}]": "corpus.shard: no such key; did you mean corpus.shards?",
    "stage=trian": (
        "stage=trian is not one of all, check, plan, train, attack, report; did you mean train?"
    ),
    "algorithm.name=fedave": (
        "algorithm.name=fedave is not one of fedavg, fedsgd; did you mean fedavg?"
    ),
    "rounds=-5": "rounds=-5 must be at least 1",
    "runtime.address=x:99999": (
        "runtime.address=x:99999: must be HOST:PORT, with a port from 1 to 65535"
    ),
    "runtime.ray_address=x": (
        "runtime.ray_address=x: must be HOST:PORT, with a port from 1 to 65535"
    ),
    "data_root=/a(b": (
        "data_root=/a(b: cannot be read; if it is a text, write 'data_root=\"/a(b\"'"
    ),
    "data_root=/a,b": (
        "data_root=/a,b: has a comma; write 'data_root=[/a,b]', for one text "
        "'data_root=\"/a,b\"', or -m for a sweep"
    ),
    "runtime.name=rai": "runtime.name=rai is not one of ray, local, network; did you mean ray?",
    "privacy.mechanism=odp": (
        "privacy.mechanism=odp is not one of none, udp, local, layered, central, "
        "central_adaptive, central_matrix, distributed, dp_sgd, custom; did you mean udp?"
    ),
}


@pytest.mark.parametrize("override", WRONG)
def test_a_mistake_is_named_with_the_nearest_right_word(override, fedser, tmp_path):
    small = [f"cache={tmp_path / 'cache'}", *TINY[:2]]
    status, printed = fedser(override, *small)
    assert status == 2
    said = [line for line in printed.splitlines() if line.startswith("fedser: ")]
    assert said == [f"fedser: {WRONG[override]}"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache in which nobody else trains shadow federations."""
    return tmp_path_factory.mktemp("cache")


def start(log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start the command as a terminal does: in its own process group."""

    def as_in_a_terminal() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return subprocess.Popen(
        [*FEDSER, *arguments, *TINY],
        cwd=log.parent,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=as_in_a_terminal,
    )


MOMENTS = {
    "features": (signal.SIGINT, ["runtime=local"]),
    "training": (signal.SIGTERM, ["runtime=ray", "rounds=5000", "stage=train"]),
    "shadows": (signal.SIGINT, ["-m", "runtime=local", "seed=1,2", "rounds=100"]),
    "attacks": (signal.SIGINT, ["runtime=local", "rounds=8"]),
}


def reached(moment: str, run: Path, cache: Path, log: Path) -> bool:
    if moment == "training":
        return len(list(run.glob("checkpoint/*/journal.jsonl"))) > 0
    if moment == "shadows":
        return (run / "training.json").exists() and list(cache.glob("shadow/*.part")) != []
    if moment == "attacks":
        return (run / "training.json").exists() and b"shadow-1: 100%" in log.read_bytes()
    return b"features: " in log.read_bytes()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_ended_by_a_signal_can_be_resumed(moment, tmp_path, cache, undrawn, fedser):
    number, changes = MOMENTS[moment]
    run, log = tmp_path / "run", tmp_path / "log"
    folder = f"hydra.run.dir={run}"
    if "-m" in changes:
        run, folder = tmp_path / "sweep" / "0", f"hydra.sweep.dir={tmp_path / 'sweep'}"
    held = tmp_path / "cache" if moment == "features" else cache
    process = start(log, *changes, folder, f"cache={held}")
    try:
        while not reached(moment, run, held, log):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        started = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to the whole group
        else:
            process.send_signal(number)
        assert process.wait(300) == 128 + number
    finally:
        process.kill()
    printed = log.read_text()
    (*_, last) = printed.splitlines()
    assert last == f"fedser: interrupted; go on with: fedser resume={run} cache={held}"
    assert "Traceback" not in printed and "Error" not in printed
    gone, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
    assert not (tmp_path / "sweep" / "1").exists()
    if moment == "attacks":
        _, command = last.split("go on with: fedser ")
        status, _ = fedser(*shlex.split(command))
        assert status == 0
        attacks = read_results(run / "results.json")["attacks"]
        assert [attack["leaked_updates"] for attack in attacks] == [1, 3, 5, 10, 20, "all"]


IMPORTED = """
import sys
from fedser.cli.main import main
status = 0
try:
    main()
except SystemExit as stop:
    status = stop.code
slow = {"torch", "flwr", "ray", "numpy", "pandas", "scipy", "sklearn", "matplotlib"}
print("ended", status, *slow & set(sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--help"], 0, ""),
        (["-sc", "query=bash"], 0, ""),
        (["rounds=-5"], 2, "fedser: rounds=-5 must be at least 1\n"),
    ],
)
def test_a_quick_command_imports_nothing_slow(arguments, status, line, tmp_path):
    call = [sys.executable, "-c", IMPORTED, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COMP_LINE": "fedser privacy=u"}
    ended = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == f"ended {status}" and ended.stderr == line
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        ("fedser.client.node.main", "flwr numba pandas scipy torch"),
        (
            "fedser.cli.run, fedser.attacks.algorithms.fusion, fedser.server.network.superlink",
            "bokeh matplotlib opacus ray scipy.optimize scipy.stats sklearn sqlalchemy",
        ),
    ],
)
def test_what_only_some_commands_need_is_not_imported_at_the_start(modules, slow):
    code = f"import sys, {modules}; print(*set({slow.split()}) & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout == "\n"


def test_a_closed_pipe_prints_no_traceback(tmp_path):
    call = f"{shlex.join([*FEDSER, '--help'])} | true; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(["bash", "-c", call], env=environment, capture_output=True, text=True)
    assert told.stderr == ""
