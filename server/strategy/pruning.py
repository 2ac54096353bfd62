"""Which coordinates of an update the clients of a round send."""

import numpy as np

from fedser.client.privacy.pruning import Support, largest
from fedser.common.arrays import Arrays


class Pruning:
    """All coordinates in full rounds; between them those with the largest mean in the last one.

    Parameters
    ----------
    kept : float
        Share of the coordinates that are sent between full rounds; with 1 each round is full.
    refresh : int
        Rounds from one full round to the next; round 1 is full.

    Attributes
    ----------
    support : Support or None
        The coordinates of rounds that are not full; None before the first full round has ended
        with an update, which is then tried again.
    sent : Support or None
        The coordinates of this round; None for all.

    References
    ----------
    Magnitude pruning as by Mohammadi et al. (ISPEC 2023), doi 10.1007/978-981-99-7032-2_1, with
    coordinates that all clients share.
    """

    def __init__(self, kept: float, refresh: int) -> None:
        self._kept, self._refresh = kept, refresh
        self.support: Support | None = None
        self.sent: Support | None = None

    def begin(self, server_round: int) -> None:
        """Choose the coordinates of a round."""
        full = (server_round - 1) % self._refresh == 0
        self.sent = None if full else self.support

    def end(self, mean: Arrays) -> None:
        """Take the mean update of the round; it is empty if there is none."""
        if self._kept < 1 and self.sent is None and mean:
            self.support = largest(mean, self._kept)

    def like(self, model: Arrays) -> Arrays:
        """Return arrays with the names and shapes of an update of this round as it is sent."""
        if self.sent is None:
            return model
        return {n: np.empty(int(mask.sum()), np.float32) for n, mask in self.sent.items()}
