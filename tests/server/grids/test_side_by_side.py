import _thread
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from fedser.common import threads
from fedser.common.errors import UserError
from fedser.conf.schema import RuntimeConfig
from fedser.server.grids.side_by_side import run_on
from fedser.server.rounds.bookkeeping import Recorder
from fedser.server.study.run import run_federations
from tests.examples import ATTENTION, CENTRAL, DP_SGD, MLP, UDP, federation

pytestmark = pytest.mark.all_cores

LOCAL = RuntimeConfig("local")


@pytest.fixture
def cores(monkeypatch):
    def set_cores(count):
        monkeypatch.setattr(threads, "cpu_count", lambda: count)

    return set_cores


def test_results_are_in_the_order_of_the_servers(cores):
    cores(3)
    waits = [0.3, 0.1, 0.2, 0.0]
    assert run_on(LOCAL, [lambda *_, w=w: time.sleep(w) or w for w in waits]) == waits
    assert run_on(LOCAL, []) == []


def test_one_server_per_core_runs_at_a_time(cores):
    cores(2)
    met, lock, grids, running, most = (
        threading.Barrier(2, timeout=20),
        threading.Lock(),
        [],
        [0],
        [0],
    )

    def server(grid, folder, device):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            grids.append(grid)
        met.wait()
        time.sleep(0.05)
        with lock:
            running[0] -= 1

    run_on(LOCAL, [server] * 6)
    assert most == [2] and len(set(map(id, grids))) == 2


def test_federations_give_the_same_results_side_by_side(tmp_path, cores):
    found = {}
    for count in (1, 4):
        cores(count)
        made = [
            replace(
                federation(tmp_path / f"{count}-{number}", rounds=6, privacy=privacy, model=model),
                name=name,
            )
            for number, (name, privacy, model) in enumerate(
                [
                    ("a", None, MLP),
                    ("b", None, MLP),
                    ("c", UDP, MLP),
                    ("d", CENTRAL, ATTENTION),
                    ("e", DP_SGD, ATTENTION),
                    ("f", UDP, ATTENTION),
                ]
            )
        ]
        found[count] = run_federations(made, LOCAL)
    for one, other in zip(*found.values(), strict=True):
        rows = [[{**vars(r), "seconds": 0} for r in outcome.rounds] for outcome in (one, other)]
        assert repr(rows[0]) == repr(rows[1]) and one.releases == other.releases
        for name, array in one.best_arrays.items():
            np.testing.assert_array_equal(array, other.best_arrays[name])
    for number in range(6):
        one, other = (tmp_path / f"{count}-{number}" for count in (1, 4))
        files = sorted(path.name for path in one.iterdir())
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_the_first_error_stops_the_rest(cores):
    cores(2)
    sent, begun = [0], []

    def endless(grid, folder, device):
        begun.append("endless")
        while True:
            grid.push_messages([])
            sent[0] += 1
            time.sleep(0.001)

    def refuse(grid, folder, device):
        begun.append("refuse")
        while not sent[0]:
            time.sleep(0.001)
        raise UserError("no such column")

    with pytest.raises(UserError, match="no such column"):
        run_on(LOCAL, [endless, refuse, endless, endless])
    assert begun.count("refuse") == 1 and len(begun) <= 3


def test_an_interruption_leaves_usable_checkpoints(tmp_path, cores, monkeypatch):
    def made(folder):
        return [
            replace(
                federation(tmp_path / folder / name, rounds=9),
                name=name,
                checkpoint=tmp_path / folder / f"{name}-checkpoint",
                checkpoint_every=2,
            )
            for name in ("a", "b", "c")
        ]

    cores(2)
    whole = run_federations(made("whole"), LOCAL)
    record = Recorder.record

    def record_or_interrupt(self, number, *rest):
        record(self, number, *rest)
        if number == 5 and self.outcome.federation.name == "b":
            _thread.interrupt_main()
            time.sleep(0.2)

    # A process that a script starts in the background ignores the signal.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "record", record_or_interrupt)
            with pytest.raises(KeyboardInterrupt):
                run_federations(made("parts"), LOCAL)
    finally:
        signal.signal(signal.SIGINT, inherited)
    resumed = run_federations(made("parts"), LOCAL)
    for one, other in zip(whole, resumed, strict=True):
        assert [r.test_uar for r in one.rounds] == [r.test_uar for r in other.rounds]
        for name, array in one.best_arrays.items():
            np.testing.assert_array_equal(array, other.best_arrays[name])


def test_each_progress_bar_has_its_own_line(tmp_path):
    with (
        Recorder(federation(tmp_path / "a"), 1, 1) as one,
        Recorder(federation(tmp_path), 1, 1) as other,
    ):
        assert {abs(one._bar.pos), abs(other._bar.pos)} == {0, 1}
