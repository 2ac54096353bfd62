"""The policy of a device: which requests it answers, whatever the server asks for.

A policy is a YAML file beside the node's key, with some of the fields of `NodePolicy`; the others
keep their defaults, which are those of the default study. The ledger counts what has left the
device, over all federations and servers, so the device can stop by itself.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedser.client.privacy.base import Mechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.distributed import DistributedDP
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.gaussian import gaussian_epsilon
from fedser.client.privacy.local import LocalDP
from fedser.client.secure_aggregation.session import Refused
from fedser.client.training.request import MODELS, TrainRequest
from fedser.common.arrays import Arrays, l2_norm
from fedser.common.errors import UserError
from fedser.common.files import read_json, read_yaml, schema_problem, write_synced

MECHANISMS: Mapping[str, type[Mechanism]] = {
    "local": LocalDP,
    "distributed": DistributedDP,
    "central": CentralDP,
    "dp_sgd": DPSGD,
}
"""Names of mechanisms in a policy. Every other mechanism is `none` here: it guarantees nothing."""

_NUMBER, _COUNT = {"type": "number", "minimum": 0}, {"type": "integer", "minimum": 1}
_OPTIONAL_COUNT = {"type": ["integer", "null"], "minimum": 1}


def _choices(*names: str) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": list(names)}, "uniqueItems": True}


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "algorithms": _choices("fedavg", "fedsgd"),
        "models": _choices(*MODELS),
        "max_model_norm": _NUMBER,
        "max_epochs": _COUNT,
        "min_batch_size": _COUNT,
        "max_learning_rate": _NUMBER,
        "max_adam_epsilon": _NUMBER,
        "mechanisms": _choices(*MECHANISMS, "none"),
        "min_noise": _NUMBER,
        "plain_shares": {"type": "boolean"},
        "min_clients": {"type": "integer", "minimum": 2},
        "max_updates": _OPTIONAL_COUNT,
        "stop_at_epsilon": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "delta": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    },
}
"""JSON schema of a policy's file."""


@dataclass(frozen=True)
class NodePolicy:
    """What a device answers.

    Attributes
    ----------
    algorithms, models, mechanisms : sequence of str
        Names that a request may have.
    max_model_norm : float
        Largest L2 norm of the weights that the server sends.
    max_epochs, min_batch_size, max_learning_rate, max_adam_epsilon : int, int, float, float
        Limits of the training settings. A batch that holds all utterances of a client is never too
        small.
    min_noise : float
        Least standard deviation of the noise of an update over its sensitivity. It is 0 for
        mechanisms without noise of the device.
    plain_shares : bool
        Whether an update with a share of the noise may be sent without masks.
    min_clients : int
        Fewest clients of a secure or encrypted sum.
    max_updates : int or None
        Updates that a speaker's data may give, ever.
    stop_at_epsilon, delta : float or None, float
        Epsilon (for zero-out) that all updates of a speaker may spend together, and its delta.
    """

    algorithms: Sequence[str] = ("fedavg",)
    models: Sequence[str] = tuple(MODELS)
    max_model_norm: float = 1000.0
    max_epochs: int = 1
    min_batch_size: int = 20
    max_learning_rate: float = 5e-4
    max_adam_epsilon: float = 1e-8
    mechanisms: Sequence[str] = (*MECHANISMS, "none")
    min_noise: float = 0.0
    plain_shares: bool = False
    min_clients: int = 2
    max_updates: int | None = None
    stop_at_epsilon: float | None = None
    delta: float = 1e-5

    @classmethod
    def load(cls, file: Path | None) -> "NodePolicy":
        """Read a policy; None gives the defaults.

        Raises
        ------
        UserError
            If the file cannot be read, or holds something else.
        """
        if file is None:
            return cls()
        found = read_yaml(file)
        if problem := schema_problem(SCHEMA, found):
            names = ", ".join(field.name for field in fields(cls))
            raise UserError(f"{file}: {problem}; it may hold {names}")
        return cls(**found)

    def check(self, request: TrainRequest, model: Arrays, num_examples: Sequence[int]) -> None:
        """Reject a request to train; raise Refused with the reason.

        Parameters
        ----------
        num_examples : sequence of int
            Training utterances of each of the request's clients.
        """
        norm, training = l2_norm(model), request.training
        if not norm <= self.max_model_norm:
            raise Refused(f"the model's norm of {norm:.3g} is above {self.max_model_norm:g}")
        if request.model.name not in self.models:
            raise Refused(f"the model {request.model.name} is not allowed")
        if not request.clients:  # the node only evaluates the model
            return
        if request.algorithm not in self.algorithms:
            raise Refused(f"the algorithm {request.algorithm} is not allowed")
        if not 0 < training.epochs <= self.max_epochs:
            raise Refused(f"{training.epochs} epochs are asked, {self.max_epochs} are allowed")
        if training.batch_size < min(self.min_batch_size, *num_examples):
            raise Refused(f"batches of {training.batch_size} are below {self.min_batch_size}")
        if request.algorithm == "fedavg":
            self._check_adam(request)
        together = max(clients_by_speaker(request).values())  # they move a sum together
        self._check_mechanism(request.mechanism, training.steps(max(num_examples)), together)

    def _check_adam(self, request: TrainRequest) -> None:
        t = request.training
        limits = {
            "learning_rate": (t.learning_rate, 0, self.max_learning_rate),
            "adam_epsilon": (t.adam_epsilon, 0, self.max_adam_epsilon),
            "beta1": (t.beta1, 0, 0.999),
            "beta2": (t.beta2, 0, 0.9999),
            "weight_decay": (t.weight_decay, 0, 0.1),
        }
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise Refused(f"training.{name}={value:g} is not between {low:g} and {high:g}")

    def _check_mechanism(self, mechanism: Mechanism, steps: int, together: int) -> None:
        name = mechanism_name(mechanism)
        if name not in self.mechanisms:
            raise Refused(f"the mechanism {name} is not allowed")
        mu = together * mechanism.mu(steps)
        noise = 1 / mu if mu else math.inf
        if not noise >= self.min_noise:
            raise Refused(f"noise of {noise:.3g} sensitivities is below {self.min_noise:g}")
        if isinstance(mechanism, DistributedDP):
            if not mechanism.masked and not self.plain_shares:
                raise Refused("an update with a share of the noise is asked without masks")
            self.check_sum(mechanism.min_clients)

    def check_sum(self, min_clients: int) -> None:
        """Reject a secure or encrypted sum of too few clients; raise Refused."""
        if min_clients < self.min_clients:
            raise Refused(
                f"a sum of {min_clients} clients is asked, at least {self.min_clients} are allowed"
            )

    def explain(self) -> str:
        """Return the policy in words, one sentence per line."""
        guaranteed = self.min_noise > 0 or self.stop_at_epsilon is not None
        lines = [
            f"This node trains {_any_of(self.models)} by {_any_of(self.algorithms)}.",
            f"Epochs of a round: at most {self.max_epochs}; utterances of a batch: at least "
            f"{self.min_batch_size}; learning rate: at most {self.max_learning_rate:g}.",
            f"It takes weights with a norm up to {self.max_model_norm:g}.",
            f"It protects updates by {_any_of(self.mechanisms)}.",
            (
                f"The noise on an update has at least {self.min_noise:g} sensitivities."
                if self.min_noise > 0
                else "It asks for no noise: the server may get updates in the clear."
            ),
            f"A secure or encrypted sum has at least {self.min_clients} clients.",
            (
                "Without masks it sends an update with a share of the noise."
                if self.plain_shares
                else "Without masks it sends no update with a share of the noise."
            ),
            (
                f"A speaker's data give at most {self.max_updates} updates, ever."
                if self.max_updates
                else "It does not limit the number of updates."
            ),
            (
                f"It stops before a speaker's updates spend more than ε = "
                f"{self.stop_at_epsilon:g} at δ = {self.delta:g}, over all studies."
                if self.stop_at_epsilon
                else "It does not limit what updates spend."
            ),
        ]
        if not guaranteed and "none" in self.mechanisms:
            lines.append("This policy guarantees no privacy against the server.")
        return "\n".join(lines)


@dataclass(frozen=True)
class Spent:
    """What the updates of one speaker have spent.

    Attributes
    ----------
    updates : int
    unprotected : int
        Updates without a guarantee of the device.
    mu_squared : float
        Sum of the squared mu of the others (Gaussian differential privacy, zero-out).
    """

    updates: int = 0
    unprotected: int = 0
    mu_squared: float = 0.0

    def plus(self, clients: int, mu: float) -> "Spent":
        """Return what is spent after one more round with this number of the speaker's clients."""
        if math.isinf(mu):
            return replace(self, updates=self.updates + clients, unprotected=self.unprotected + 1)
        squared = self.mu_squared + (clients * mu) ** 2
        return replace(self, updates=self.updates + clients, mu_squared=squared)

    def epsilon(self, delta: float) -> float:
        """Return the epsilon of all updates together; infinite without a guarantee."""
        return math.inf if self.unprotected else gaussian_epsilon(math.sqrt(self.mu_squared), delta)


@dataclass
class NodeLedger:
    """The updates that left a device, by speaker.

    Attributes
    ----------
    file : Path or None
        Keeps the ledger; None: it lasts as long as the process.
    """

    file: Path | None
    spent: dict[str, Spent] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path | None) -> "NodeLedger":
        """Read a ledger, or begin one.

        Raises
        ------
        UserError
            If the file is damaged: an empty ledger would allow what was spent already.
        """
        if file is None or not file.exists():
            return cls(file)
        names = [f.name for f in fields(Spent)]
        kinds = {"updates": int, "unprotected": int, "mu_squared": float}
        try:
            found = {
                s: Spent(**{n: kinds[n](row[n]) for n in names})
                for s, row in read_json(file).items()
            }
        except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{file}: damaged ledger of updates; restore it from a copy") from error
        return cls(file, found)

    def add(self, request: TrainRequest, policy: NodePolicy, steps: int) -> None:
        """Count the updates of a request, on the disk, before any of them leaves.

        Raises
        ------
        Refused
            If the policy allows no more updates; nothing is then counted.
        """
        mu, after = request.mechanism.mu(steps), dict(self.spent)
        for speaker, clients in clients_by_speaker(request).items():
            after[speaker] = after.get(speaker, Spent()).plus(clients, mu)
            if policy.max_updates is not None and after[speaker].updates > policy.max_updates:
                raise Refused(f"{speaker} has given all of its {policy.max_updates} updates")
            epsilon, limit = after[speaker].epsilon(policy.delta), policy.stop_at_epsilon
            if limit is not None and epsilon > limit:
                raise Refused(f"{speaker} would spend ε = {epsilon:.3g}, and {limit:g} is allowed")
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            content = {speaker: vars(spent) for speaker, spent in after.items()}
            write_synced(self.file, json.dumps(content, indent=1).encode())
        self.spent = after


def clients_by_speaker(request: TrainRequest) -> Counter[str]:
    """Return how many clients of each speaker a request trains."""
    assert request.hosting is not None  # checked by the guard
    wanted = set(request.clients)
    return Counter(who for number, who, _ in request.hosting.clients if number in wanted)


def mechanism_name(mechanism: Mechanism) -> str:
    """Return the name of a mechanism in a policy."""
    kinds = MECHANISMS.items()
    return next((name for name, kind in kinds if type(mechanism) is kind), "none")


def _any_of(names: Sequence[str]) -> str:
    *most, last = names or ["nothing"]
    return f"{', '.join(most)} or {last}" if most else last
