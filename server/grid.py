"""An in-process Flower grid: the same ServerApp and ClientApp without Ray or a network."""

from collections.abc import Iterable
from itertools import count

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

NODE_ID = 1


class LocalGrid(Grid):
    """A grid of one node in this process, which answers messages as they are sent.

    For tests and small studies; the numbers are those of a simulation on Ray.
    """

    def __init__(self, client_app: ClientApp) -> None:
        self._client_app = client_app
        self._run = Run.create_empty(run_id=1)
        self._ids = count(1)
        self._replies: dict[str, Message] = {}
        # A Message reads its sender from here; Flower's own launchers set it likewise.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, NODE_ID

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the one node."""
        return [NODE_ID]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have the node answer each message at once."""
        sent = []
        for message in messages:
            message_id = str(next(self._ids))
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do
            context = Context(1, NODE_ID, UserConfig(), RecordDict(), UserConfig())
            self._replies[message_id] = self._client_app(message, context)
            sent.append(message_id)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return each message's reply."""
        return self.pull_messages(self.push_messages(messages))
