"""What a node does before its first message."""

import subprocess
import sys

SCRIPT = """
from pathlib import Path
from client import compiled
from client.app import app, warm_up
from server.app import federate
from server.grid import LocalGrid
from tests.examples import UDP, federation

def signatures():
    return {name: f.signatures for name, f in vars(compiled).items() if hasattr(f, "signatures")}

assert not any(signatures().values())
warm_up("cpu")
before = signatures()
assert before["_train"]
for name, changes in {"plain": {}, "clipped": {"privacy": UDP}}.items():
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    federate(LocalGrid(app), federation(folder, rounds=1, **changes), folder, "cpu")
assert signatures() == before
"""


def test_no_message_waits_for_a_compiler(tmp_path):
    command = [sys.executable, "-c", "import sys\n" + SCRIPT, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
