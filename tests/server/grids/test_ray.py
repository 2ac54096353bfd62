import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Timer

import numpy as np
import pytest
import ray
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from ray.exceptions import RayError

import fedser.server.study.run  # noqa: F401  (sets the environment that Ray reads)
from fedser.client.messages import from_record, to_record
from fedser.common.errors import UserError
from fedser.common.threads import cores
from fedser.server.grids.local import Stopped
from fedser.server.grids.progress import bar
from fedser.server.grids.ray import RayGrid, ray_grids

SHAPE = (1000, 1000)
HALF = {"num_cpus": cores() / 2}

NONE = np.zeros(3, np.float32)

app = ClientApp()


@app.train()
def answer(message, context):
    """Do what the message asks, and send its array back plus one."""
    asked = message.content["config"]
    time.sleep(float(asked["seconds"]))
    if asked["end"] == "raise":
        raise ValueError("no such client")
    if asked["end"] == "exit":
        os._exit(1)
    (array,) = from_record(message.content["arrays"]).values()
    seen = MetricRecord(
        {"owned": int(array.flags.owndata), "writeable": int(array.flags.writeable)}
    )
    content = RecordDict({"arrays": to_record({"w": array + np.float32(1)}), "metrics": seen})
    return Message(content, reply_to=message)


def ask(node, end="", seconds=0.0, array=NONE):
    config = ConfigRecord({"end": end, "seconds": seconds})
    content = RecordDict({"arrays": to_record({"w": array}), "config": config})
    return Message(content, node, "train")


@pytest.fixture(scope="module")
def grid():
    with ray_grids(app, HALF, None, 1) as (grid,):
        yield grid


def nodes_that_answer(grid, **changes):
    nodes = grid.get_node_ids()
    replies = grid.send_and_receive([ask(node) for node in nodes], **changes)
    return [reply.metadata.src_node_id for reply in replies if reply.has_content()]


def test_arrays_use_shared_memory_in_both_directions(grid):
    array = np.random.default_rng(0).random(SHAPE, np.float32)
    (reply,) = grid.send_and_receive([ask(1, array=array)])
    (found,) = from_record(reply.content["arrays"]).values()
    np.testing.assert_array_equal(found, array + 1)
    assert not found.flags.writeable and not found.flags.owndata
    assert reply.content["metrics"] == MetricRecord({"owned": 0, "writeable": 0})
    with open("/proc/self/maps") as maps:
        shared = [line.split()[0].split("-") for line in maps if "plasma" in line]
    first, last = found.ctypes.data, found.ctypes.data + found.nbytes
    assert any(int(low, 16) <= first and last <= int(high, 16) for low, high in shared)


def test_an_error_of_the_client_app_is_its_reply(grid):
    bad, good = grid.send_and_receive([ask(1, "raise"), ask(2)])
    assert bad.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "ValueError" in bad.error.reason and "no such client" in bad.error.reason
    assert good.has_content() and nodes_that_answer(grid) == [1, 2]


def test_a_dead_node_is_back_for_the_next_message(grid):
    sent = [ask(1, "exit"), ask(2)]
    dead, alive = grid.send_and_receive(sent)
    assert dead.error.code == ErrorCode.UNKNOWN and dead.error.reason
    assert dead.metadata.reply_to_message_id == sent[0].metadata.message_id
    assert alive.has_content() and nodes_that_answer(grid) == [1, 2]


def test_a_killed_node_is_back_for_the_next_message(grid):
    timer = Timer(1, ray.kill, [grid._nodes[2]], {"no_restart": False})
    timer.start()
    alive, lost = grid.send_and_receive([ask(1), ask(2, seconds=30)])
    assert alive.has_content() and lost.error.code == ErrorCode.UNKNOWN
    assert nodes_that_answer(grid) == [1, 2]
    timer.join()


def test_replies_can_be_fetched_later_and_once(grid):
    began = time.monotonic()
    numbers = list(grid.push_messages([ask(1, seconds=1), ask(2, seconds=1)]))
    assert list(grid.pull_messages(numbers)) == [] and time.monotonic() - began < 0.9
    replies = []
    while len(replies) < 2 and time.monotonic() - began < 20:
        replies += grid.pull_messages(numbers)
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(numbers)
    assert list(grid.pull_messages(numbers)) == []


def test_a_late_node_is_not_waited_for(grid):
    began = time.monotonic()
    late = ask(1, seconds=3)
    (reply,) = grid.send_and_receive([late, ask(2)], timeout=1.5)
    assert reply.metadata.src_node_id == 2 and 1.5 <= time.monotonic() - began < 2.5
    assert nodes_that_answer(grid) == [1, 2]
    assert list(grid.pull_messages([late.metadata.message_id])) == []


def test_no_message_needs_no_reply(grid):
    assert list(grid.send_and_receive([])) == []


def test_a_grid_can_be_stopped_while_it_waits(grid):
    other = RayGrid(grid._nodes)
    timer = Timer(0.2, other.stop)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        other.send_and_receive([ask(1, seconds=4)])
    assert time.monotonic() - began < 3
    with pytest.raises(Stopped):
        other.push_messages([])
    timer.join()


def test_workers_are_divided_and_ray_can_start_again():
    ray.shutdown()
    quarter = {"num_cpus": cores() / 4}
    with ray_grids(app, quarter, None, 2) as grids:
        assert [list(grid.get_node_ids()) for grid in grids] == [[1, 3], [2, 4]]
        assert [nodes_that_answer(grid) for grid in grids] == [[1, 3], [2, 4]]
    assert not ray.is_initialized()


def test_servers_run_in_workers_if_there_are_enough(tmp_path, capfd):
    ray.shutdown()
    with ray_grids(app, HALF, None, 5) as hosts:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda host: host.serve(count_to_three, tmp_path, "cpu"), hosts))
        assert len({pid for _, pid in found} - {os.getpid()}) == 2
        assert [name for name, _ in found] == [f"{tmp_path} cpu [1]"] * 2
        shown = capfd.readouterr().err.split("\r")
        assert shown[-1].startswith("count: 100%") and "3/3" in shown[-1] and "so far" in shown[-1]
        assert any("1/3" in line or "2/3" in line for line in shown)
        with pytest.raises(UserError, match="^this key$"):
            hosts[0].serve(refuse, tmp_path, "cpu")
        assert hosts[0].serve(lambda *_: 7, tmp_path, "cpu") == 7
        Timer(1.0, hosts[1].stop).start()
        began = time.monotonic()
        with pytest.raises((Stopped, RayError)):
            hosts[1].serve(lambda *_: time.sleep(30), tmp_path, "cpu")
        assert time.monotonic() - began < 5
    assert not ray.is_initialized()


def count_to_three(grid, folder, device):
    with bar(3, "count") as shown:
        for _ in range(3):
            time.sleep(0.7)
            shown.set_postfix_str("so far", refresh=False)
            shown.update()
    return f"{folder} {device} {grid.get_node_ids()}", os.getpid()


def refuse(grid, folder, device):
    raise UserError("this key")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "auto"])
def test_a_missing_cluster_is_rejected(address):
    with (
        pytest.raises(UserError, match=rf"runtime\.ray_address={address}: no Ray cluster there"),
        ray_grids(app, {"num_cpus": 1}, address, 1),
    ):
        pass


def test_ray_gets_the_cores_of_this_process(monkeypatch):
    monkeypatch.setattr("fedser.server.grids.ray.cores", lambda: 3)
    given = {}

    def init(*_, **options):
        given.update(options)
        raise Stopped

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Stopped), ray_grids(app, {"num_cpus": 1}, None, 1):
        pass
    assert given["num_cpus"] == 3


def test_a_temporary_folder_with_a_long_path_is_named(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with (
        pytest.raises(UserError, match=f"{folder} is too long .* RAY_TMPDIR .* runtime=local"),
        ray_grids(app, {"num_cpus": 1}, None, 1),
    ):
        pass
