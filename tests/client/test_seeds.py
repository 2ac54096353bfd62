import numpy as np
import torch

from client.seeds import numpy_stream, torch_stream


def test_a_stream_depends_on_its_name_and_seed_alone():
    first = numpy_stream(1, "cohort", 3).random(4)
    numpy_stream(1, "cohort", 4).random(100)
    np.testing.assert_array_equal(numpy_stream(1, "cohort", 3).random(4), first)
    others = [numpy_stream(2, "cohort", 3), numpy_stream(1, "cohort", 4), numpy_stream(1, "x", 3)]
    assert all(not np.array_equal(other.random(4), first) for other in others)


def test_torch_streams_are_reproducible_and_uncorrelated():
    a, b = torch_stream(0, "training", 1), torch_stream(0, "training", 2)
    x, y = torch.randn(10_000, generator=a), torch.randn(10_000, generator=b)
    assert torch.equal(x, torch.randn(10_000, generator=torch_stream(0, "training", 1)))
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.05
