"""Secure sums over real nodes, one of which stops in each step of the protocol."""

import re
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from fedser.client.speakers.clients import speaker_folds
from fedser.common.processes import free_port
from fedser.conf.build import compose
from fedser.conf.values import NUM_FOLDS
from fedser.server.network import server_task
from fedser.server.network.polling import poll_each_reply
from fedser.server.study.run import study_config
from fedser.server.transcript.transcript import Transcript
from fedser.stages.study import run_study
from tests.network.compose import certify, services
from tests.network.corpus import divide_speakers
from tests.network.soak import node_with_cache

SHARES = (6, 2)
NAMES = [f"s{number:03d}" for number in range(sum(SHARES))]
LOST = {
    1: ("query.share", 4),
    2: ("train", 4),
    3: ("query.confirm", 6),  # the updates are there: the sum is that of everybody
    4: ("query.advertise", 4),
    5: ("query.unmask", 6),
}
"""By round: the message before which the second node is stopped, and the clients of the sum."""
LAST = max(LOST)
"""In this round it is killed; before, it is paused and goes on in the next round."""


def fold_without(held: list[str]) -> int:
    """Return a test fold in which all of these speakers train."""
    folds = speaker_folds(NAMES, NUM_FOLDS, 0)
    return next(n for n, own in enumerate(folds) if len(own) == 2 and not set(own) & set(held))


@pytest.fixture(scope="module")
def summed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    (folder / "speakers").mkdir()
    divide_speakers(folder / "speakers", SHARES, 8)
    certificates, port = folder / "certificates", free_port()
    certify(certificates, SHARES)
    described, secrets = services(
        {"FEDSER_SPEAKERS": str(folder / "speakers"), "FEDSER_CERTIFICATES": str(certificates)}
    )
    nodes = [
        node_with_cache(described[name], secrets, port, folder / name)
        for name in ("node-1", "node-2")
    ]
    config = study_config(
        compose(
            [
                *("corpus=manifest", "corpus.name=mine", "corpus.file=null", "stage=train"),
                *(f"rounds={LAST}", f"folds=[{fold_without(NAMES[-2:])}]"),
                *("cohort_fraction=1", "privacy=distributed", "privacy.epsilon=8"),
                *("privacy.dropout=0.34", "runtime=network", "runtime.round_timeout=300"),
                *(f"runtime.address=localhost:{port}", f"runtime.certificates={certificates}"),
                f"cache={folder / 'cache'}",
            ]
        )
    )
    (folder / "run").mkdir()
    lost = []

    def stopping(grid):
        """Stop the node if it is its turn, and do not wait for the time-out of a stopped node."""
        poll_each_reply(grid)
        send = grid.send_and_receive

        def sent(messages, *, timeout=None):
            if not messages:  # Flower asks nobody to evaluate
                return []
            about = messages[0].metadata
            number, step = int(about.group_id or 0), about.message_type
            if number in LOST and step == LOST[number][0]:
                lost.append(number)
                nodes[1].signal(signal.SIGKILL if number == LAST else signal.SIGSTOP)
            elif step == "query.advertise":
                nodes[1].signal(signal.SIGCONT)
            if not lost or lost[-1] not in (number, LAST):
                return send(messages, timeout=timeout)
            (stopped,) = re.findall(r"SuperNode ID: (\d+)", nodes[1].log())
            alive = sum(m.metadata.dst_node_id != int(stopped) for m in messages)
            asked, replies, end = grid.push_messages(messages), [], time.monotonic() + 120
            while len(replies) < alive and time.monotonic() < end:
                replies += grid.pull_messages(asked)
                time.sleep(0.05)
            return replies

        grid.send_and_receive = sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_task, "poll_each_reply", stopping)
        for node in nodes:
            node.start()
        try:
            run_study(config, {}, folder / "run")
        finally:
            for node in nodes:
                node.stop()
    assert lost == list(LOST)
    return folder / "run"


def test_a_sum_opens_whenever_a_node_stops(summed):
    rounds = pd.read_parquet(summed / "rounds.parquet")
    assert list(rounds["clients"]) == [clients for _, clients in LOST.values()]
    assert list(rounds["rejected_vanished"]) == [2, 0, 0, 2, 0]
    assert list(rounds["rejected"]) == [2, 2, 0, 2, 0]
    # Two clients were not asked to train in the two rounds in which they vanished before that.
    assert (
        list(pd.read_parquet(summed / "ledger.parquet")["releases"]) == [LAST] * 4 + [LAST - 2] * 2
    )


def test_the_model_moves_in_each_round(summed):
    (name,) = [f.name for f in (summed / "transcript").iterdir()]
    models = [model for _, model in Transcript(summed / "transcript" / name).global_models()]
    assert len(models) == LAST + 1
    for before, after in zip(models, models[1:], strict=False):
        assert all((before[n] != after[n]).any() for n in before)
    assert load_file(summed / "model.safetensors")
