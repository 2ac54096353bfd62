"""Run a sweep that kills its own process in one of its runs, as `kill -9` does.

``python -m tests.fedser.cli.killed_sweep MECHANISM FOLD ROUND ARGUMENTS...``
"""

import os
import signal
import sys
from typing import Any

from fedser.cli.main import main
from fedser.server.rounds.bookkeeping import Recorder

record = Recorder.record


def record_and_die(self: Recorder, server_round: int, *rest: Any) -> None:
    record(self, server_round, *rest)
    federation = self.outcome.federation
    mechanism = federation.protocol.plan.config.mechanism
    if [mechanism, str(federation.fold), str(server_round)] == MOMENT:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    MOMENT, sys.argv[1:] = sys.argv[1:4], sys.argv[4:]
    Recorder.record = record_and_die  # type: ignore[method-assign, assignment]
    main()
