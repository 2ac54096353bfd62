from threading import Timer

import pytest

from fedser.client.app import app as client_app
from fedser.common.errors import Suspended
from fedser.server.grids.local import LocalGrid
from fedser.server.strategy.nodes import chunk_size, share_cohort, wait_for_nodes


class Connected(LocalGrid):
    """A grid with these nodes."""

    def __init__(self, nodes):
        super().__init__(client_app)
        self.nodes = nodes

    def get_node_ids(self):
        return list(self.nodes)


def test_waiting_ends_when_enough_nodes_are_connected(capsys):
    grid = Connected([3])
    timer = Timer(0.3, lambda: grid.nodes.extend([1, 2]))
    timer.start()
    assert wait_for_nodes(grid, 3, 60) == [1, 2, 3]
    timer.join()
    with pytest.raises(Suspended, match=r"^3 of 4 nodes are here after 0\.2 s: start them, or"):
        wait_for_nodes(grid, 4, 0.2)
    assert "waiting for nodes: 3 of 4 nodes are here\n" in capsys.readouterr().err


def test_only_named_nodes_count_and_missing_ones_are_named():
    grid = Connected([3, 1, 2])
    names = {2: "b", 3: "c", 8: "h", 9: "i"}  # node 1 has no roster in this study
    assert wait_for_nodes(grid, 2, 0, names) == [2, 3]
    with pytest.raises(Suspended, match=r"^2 of 3 nodes are here, missing: h, i after 0\.1 s: "):
        wait_for_nodes(grid, 3, 0.1, names)


@pytest.mark.parametrize("size", [0, 1, 7, 16, 33, 100])
def test_chunks_are_the_same_for_any_number_of_nodes(size):
    cohort = list(range(0, 2 * size, 2))
    chunk = chunk_size(size)
    assert 1 <= chunk <= 16
    starts = set(cohort[::chunk])
    for num_nodes in (1, 2, 3, 9):
        shares = share_cohort(cohort, num_nodes)
        assert len(shares) == num_nodes
        assert [client for share in shares for client in share] == cohort
        assert {share[0] for share in shares if share} <= starts
