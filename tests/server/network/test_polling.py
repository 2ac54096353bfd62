from threading import Event

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedser.common.errors import UserError
from fedser.server.grids.local import NODE_ID, LocalGrid
from fedser.server.network.polling import CLOCK_DIFFERENCE_SECONDS, poll_each_reply
from fedser.server.network.roster import Network


class Mailbox(LocalGrid):
    """A grid with prepared replies: content, or the error that reading it raises."""

    def __init__(self, replies):
        super().__init__(None)
        self.replies, self.pulled = replies, []

    def get_node_ids(self):
        return list(self.replies)

    def _submit(self, message_id, message):
        self._replies[message_id] = (message, self.replies[message.metadata.dst_node_id])

    def pull_messages(self, message_ids):
        for message, reply in super().pull_messages(message_ids):
            self.pulled.append(message.metadata.dst_node_id)
            if isinstance(reply, Exception):
                raise reply
            made = Message(reply, reply_to=message)
            if "answers" in reply:
                made.metadata.__dict__["_reply_to_message_id"] = reply["answers"]["id"]
            yield made


def asked(nodes):
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, NODE_ID
    return [Message(RecordDict(), node, "query") for node in nodes]


def test_an_unreadable_reply_is_an_error_of_its_node_only():
    good = RecordDict({"arrays": ArrayRecord({"w": Array(np.ones(2))})})
    grid = Mailbox(
        {
            11: good,
            12: ValueError("invalid object type"),
            13: RecordDict({"answers": ConfigRecord({"id": "1"})}),  # that of the first node
            14: AttributeError("metadata"),
            15: good,
        }
    )
    poll_each_reply(grid)
    messages = asked(grid.replies)
    replies = list(grid.send_and_receive(messages, timeout=5))
    node = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    answered = {node[reply.metadata.reply_to_message_id]: reply for reply in replies}
    assert len(replies) == len(answered) == 5
    said = {n: reply.error.reason for n, reply in answered.items() if reply.has_error()}
    assert said == {
        12: "a reply that cannot be read: ValueError('invalid object type')",
        13: "a reply that claims to answer another message",
        14: "a reply that cannot be read: AttributeError('metadata')",
    }
    assert sorted(grid.pulled) == [11, 12, 13, 14, 15]


def test_a_lost_superlink_is_not_an_error_of_a_node():
    grid = Mailbox({11: httpx.ConnectError("refused")})
    poll_each_reply(grid)
    with pytest.raises(httpx.ConnectError):
        grid.send_and_receive(asked([11]), timeout=5)


def test_a_missing_reply_is_not_waited_for_after_the_timeout():
    grid = Mailbox({11: RecordDict()})
    grid._submit = lambda *_: None
    poll_each_reply(grid)
    assert grid.send_and_receive(asked([11]), timeout=0.1) == []


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (ValueError("no such type"), r"node b: a reply that cannot be read: .*; is it a fedser"),
        (RecordDict(), "node b: sends no roster as a node of fedser does"),
        (RecordDict({"roster": ConfigRecord({"json": "[" * 100_000})}), "node b: sends no roster"),
        (RecordDict({"roster": ConfigRecord({"json": "{}"})}), "node b: sends no roster"),
    ],
)
def test_any_roster_of_a_node_is_handled(reply, reason):
    grid = Mailbox({11: reply})
    poll_each_reply(grid)
    with pytest.raises(UserError, match=reason):
        Network(grid, {11: "b"}, 1).roster(1)


def test_a_node_that_ends_while_it_sends_delays_no_other():
    ends = Event()

    class Upload(Mailbox):
        def pull_messages(self, message_ids):
            for reply in super().pull_messages(message_ids):
                if reply.metadata.dst_node_id == NODE_ID and reply.metadata.src_node_id == 11:
                    ends.wait()
                yield reply

    grid = Upload({11: RecordDict(), 12: RecordDict()})
    poll_each_reply(grid)
    messages = asked(grid.replies)
    replies = grid.send_and_receive(messages, timeout=1)
    ends.set()
    assert [r.metadata.reply_to_message_id for r in replies] == [messages[1].metadata.message_id]


def test_messages_expire_after_the_timeout():
    grid = Mailbox({11: RecordDict()})
    poll_each_reply(grid)
    (message,) = asked([11])
    grid.send_and_receive([message], timeout=20)
    assert message.metadata.ttl == 20 + CLOCK_DIFFERENCE_SECONDS
