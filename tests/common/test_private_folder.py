import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedser.common.errors import UserError
from fedser.common.private_folder import place, private_folder

HOLDER = """
import sys
from fedser.common.private_folder import private_folder
with private_folder() as folder:
    (folder / "secret").write_text("s")
    print(folder, flush=True)
    input()
"""
NODE = """
import sys
from fedser.client.holdings import Holdings
from fedser.client.node.supernode import NodeConfig, serve
from fedser.common.processes import free_port
from tests.examples import corpus
settings = [f"127.0.0.1:{free_port()}", None, None, True, 1, "cpu"]
serve(NodeConfig(*settings), Holdings(corpus(), "made-up"))
"""


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place()


def started(code):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


def left(base):
    return [path for path in base.iterdir() if path.suffix != ".lock"]


def test_a_folder_is_private_and_goes_with_its_block(base):
    with private_folder() as folder:
        (folder / "secret").write_text("s")
        assert folder.parent == base
        assert not (folder.stat().st_mode | base.stat().st_mode) & 0o077
    assert [path.name for path in base.iterdir()] == ["all.lock"]


def test_only_folders_of_ended_processes_are_removed(base):
    dead, alive = started(HOLDER), started(HOLDER)
    folders = [Path(process.stdout.readline().strip()) for process in (dead, alive)]
    kill(dead)
    assert (folders[0] / "secret").exists()
    with private_folder() as folder:
        assert sorted(left(base)) == sorted([folders[1], folder])
        assert (folders[1] / "secret").read_text() == "s"
    kill(alive)
    with private_folder() as folder:
        assert left(base) == [folder]


def test_the_next_start_removes_features_of_a_killed_node(base):
    node = started(NODE)
    assert "fedser-node: holds s00" in node.stdout.readline()
    (held,) = left(base)
    assert {path.name for path in held.iterdir()} >= {"holdings.safetensors", "secret"}
    kill(node)
    assert (held / "holdings.safetensors").exists()
    with private_folder():
        assert not held.exists()


def test_a_link_in_the_place_is_not_followed(base, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    (base / "link").symlink_to(tmp_path / "mine")
    with private_folder():
        assert (tmp_path / "mine" / "thesis").exists()


def test_a_place_of_somebody_else_is_refused(base, tmp_path):
    base.chmod(0o777)
    with pytest.raises(UserError, match="not a folder of this user alone"):
        place()
    base.rmdir()
    base.symlink_to(tmp_path)
    with pytest.raises(UserError, match="not a folder of this user alone"):
        place()
