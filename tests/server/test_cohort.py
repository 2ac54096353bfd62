import numpy as np
import pytest

from server.cohort import fixed_size_cohort


@pytest.mark.parametrize(
    ("clients", "fraction", "size"), [(45, 0.1, 4), (3, 0.1, 1), (7, 1.0, 7), (1, 0.5, 1)]
)
def test_size_is_fixed_and_at_least_one(clients, fraction, size):
    for server_round in range(1, 30):
        cohort = fixed_size_cohort(clients, fraction, 0, "f", server_round)
        assert len(cohort) == len(set(cohort)) == size
        assert cohort == sorted(cohort) and set(cohort) <= set(range(clients))


def test_cohorts_follow_seed_federation_and_round_alone():
    drawn = fixed_size_cohort(100, 0.2, 0, "a", 1)
    assert drawn == fixed_size_cohort(100, 0.2, 0, "a", 1)
    for other in ((1, "a", 1), (0, "b", 1), (0, "a", 2)):
        assert drawn != fixed_size_cohort(100, 0.2, *other)


def test_every_client_is_as_likely():
    counts = np.bincount(
        [c for r in range(4000) for c in fixed_size_cohort(20, 0.25, 0, "f", r)], minlength=20
    )
    # hypergeometric: mean 1000, standard deviation sqrt(4000 * 0.25 * 0.75) = 27
    assert np.abs(counts - 1000).max() < 4 * 27
