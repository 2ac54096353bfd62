"""What everybody knows of one secure sum: its name, its members, and who holds whose shares.

Each member has k neighbours. It shares a mask with each of them, and each of them holds a share of
its secrets (Bell et al., 2020). t shares reveal a secret. The neighbours follow from a hash of all
keys.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from fedser.common.errors import UserError

CORRUPT = 0.1
"""Share of the members that may tell the server all that they know."""

SPLIT = 2.0**-80
"""Probability that some member has so many such neighbours that both its masks can be removed.

It is so small because a server can try many graphs: it chooses whose keys it passes on.
"""

STUCK = 1e-6
"""Probability that a sum cannot be opened although enough members answered."""


class Refused(ValueError):
    """A device does not do what it was asked to; the argument says why."""


REFUSAL = "refused by the policy of the node; its own log says more"
"""All that a server learns of the reason."""


@dataclass(frozen=True)
class Session:
    """One secure sum.

    Attributes
    ----------
    federation : str
    round, attempt : int
        As in `client.training.request.TrainRequest`.
    cohort : int
        Clients that are asked.
    min_clients : int
        Fewest members whose sum may be opened. The noise of so many members is enough.
    """

    federation: str
    round: int
    attempt: int
    cohort: int
    min_clients: int

    @property
    def digest(self) -> bytes:
        """A hash of the session: signatures and keys of one session are worthless in another."""
        return hash_of("session", asdict(self))

    def check_enough(self, clients: int) -> None:
        """Reject a number of clients that is too small for a sum; raise Refused."""
        if clients < self.min_clients:
            raise Refused(
                f"{clients} clients are left, which is fewer than the {self.min_clients} that a "
                "sum needs"
            )


@dataclass(frozen=True)
class Graph:
    """The neighbours of each member: a circulant graph.

    It stays connected without any k - 1 members.

    Attributes
    ----------
    ring : tuple of int
        Members; a member's neighbours are the next `degree` / 2 on either side of it.
    degree : int
        Number of neighbours k of each member.
    threshold : int
        Shares t that reveal a secret.
    """

    ring: tuple[int, ...]
    degree: int
    threshold: int

    @classmethod
    def of(cls, session: Session, members: Sequence[int], keys: bytes) -> "Graph":
        """Return the graph of these members.

        Parameters
        ----------
        keys : bytes
            Hash of the keys of all members.

        Raises
        ------
        UserError
            As `degree_and_threshold` does.
        """
        degree, threshold = degree_and_threshold(session.cohort, len(members), session.min_clients)
        places = {m: hashlib.sha256(keys + m.to_bytes(8, "big")).digest() for m in members}
        return cls(tuple(sorted(members, key=places.__getitem__)), degree, threshold)

    def neighbours(self, member: int) -> list[int]:
        """Return the neighbours of a member, ascending."""
        size, place = len(self.ring), self.ring.index(member)
        if self.degree == size - 1:
            return sorted(set(self.ring) - {member})
        steps = range(1, self.degree // 2 + 1)
        return sorted(self.ring[(place + side * s) % size] for s in steps for side in (-1, 1))


@lru_cache(maxsize=256)
def degree_and_threshold(cohort: int, members: int, min_clients: int) -> tuple[int, int]:
    """Return the number of neighbours k, and the number of shares t that reveal a secret.

    With k neighbours, of whom c work with the server, t > (k + c) / 2: a server that tells some
    members one thing and the others another thing cannot get t shares of both secrets of a member,
    and cannot leave a member without an honest neighbour that answers. At least t neighbours are
    still there if `min_clients` members are. Both hold for all members, except with the
    probabilities `SPLIT` and `STUCK`. And k exceeds the number of members that may be missing or
    work with the server: whoever they are, the others stay connected by masks, so that no sum of a
    part of them can be read. k is the smallest number for all that.

    Parameters
    ----------
    cohort : int
        Clients that were asked; some of them may have sent no keys. The number that works with the
        server is a share of the cohort: the server may pass on the keys of those, and not others.
    members : int
        Clients with keys.

    Raises
    ------
    UserError
        If there is no such number.

    References
    ----------
    Bonawitz et al. (CCS 2017), section 6; Bell et al. (CCS 2020), section 3.
    """
    from scipy.stats import hypergeom  # slow to import, and other runs do not need it

    gone, corrupt = members - min_clients, min(int(CORRUPT * cohort), members - 1)
    for degree in (*range(2, members - 1, 2), members - 1):
        if degree < min(gone + corrupt + 1, members - 1):
            continue
        neighbours = hypergeom(members - 1, corrupt, degree)
        corrupt_neighbours = int(neighbours.isf(SPLIT / members)) if corrupt else 0
        threshold = (degree + corrupt_neighbours) // 2 + 1
        absent = hypergeom(members - 1, gone, degree)
        if degree >= 1 and absent.sf(degree - threshold) <= STUCK / members:
            return degree, threshold
    raise UserError(
        f"privacy.dropout: {gone} of {members} clients may be missing, which is too many for a "
        "secure sum; lower it, or let more clients take part (cohort_fraction)"
    )


def hash_of(name: str, content: object) -> bytes:
    """Return a hash of named content that JSON can express; `name` keeps uses apart."""
    return hashlib.sha256(json.dumps([name, content]).encode()).digest()
