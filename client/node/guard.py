"""Check each message against the device's policy, before the ClientApp sees it."""

from flwr.app import Message

from fedser.client.holdings import Holdings
from fedser.client.messages import from_record, from_session
from fedser.client.node.policy import NodeLedger, NodePolicy
from fedser.client.secure_aggregation.session import Refused
from fedser.client.speakers.clients import training_sizes
from fedser.client.training.request import TrainRequest
from fedser.common.errors import brief


class Guard:
    """The policy and the ledger of one node.

    Parameters
    ----------
    holdings : Holdings
        Gives the number of utterances of each client.
    """

    def __init__(self, policy: NodePolicy, ledger: NodeLedger, holdings: Holdings) -> None:
        self._policy, self._ledger = policy, ledger
        roster = holdings.roster
        self._sizes = {
            speaker: training_sizes(count, roster["shards"])
            for speaker, count in roster["speakers"].items()
        }

    def check(self, message: Message) -> None:
        """Count what a message asks for; raise Refused if it must not be answered."""
        kind = message.metadata.message_type
        if kind == "train":
            self._check_training(message)
        elif kind in ("query.advertise", "query.key"):
            self._check_sum(message)

    def _check_sum(self, message: Message) -> None:
        session = from_session(message.content.config_records["session"])
        self._policy.check_sum(session.min_clients)

    def _check_training(self, message: Message) -> None:
        try:
            text = str(message.content.config_records["config"]["request"])
            request = TrainRequest.from_json(text, custom=False)
            model = from_record(message.content.array_records["arrays"])
            assert request.hosting is not None
            hosted = {
                number: self._sizes[who][shard] for number, who, shard in request.hosting.clients
            }
            sizes = [hosted[client] for client in request.clients]
        except Exception as error:  # the server may send anything
            raise Refused(f"a request that cannot be read: {brief(error)}") from error
        # Two numbers for one client would count its noise twice, and its data too.
        numbers = [number for number, _, _ in request.hosting.clients]
        shards = [(who, shard) for _, who, shard in request.hosting.clients]
        if any(len(set(named)) < len(named) for named in (request.clients, numbers, shards)):
            raise Refused("a client is named twice")
        self._policy.check(request, model, sizes)
        if "key" in message.content.config_records:
            self._check_sum(message)
        if request.clients:
            self._ledger.add(request, self._policy, request.training.steps(max(sizes)))
