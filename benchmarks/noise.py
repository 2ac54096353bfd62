"""Compare noise on a grid with noise in floating point: ``python -m benchmarks.noise``.

Prints medians on one thread and their ratio, for one update of the 2022 study's model.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from fedser.client.privacy.rounded_gaussian import add_noise, grid_step
from fedser.common.seeds import SystemEntropy

SIZE, REPEATS = 286_596, 101


def milliseconds(functions: list[Callable[[], object]]) -> list[float]:
    """Return the median time of each function; the functions are called alternately."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, own in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            own.append(1e3 * (time.perf_counter() - started))
    return [median(own) for own in times]


def main() -> None:
    """Measure both kinds of noise and print the comparison."""
    random = np.random.default_rng(0)
    update = random.standard_normal(SIZE, np.float32) * np.float32(1e-4)
    step, noise = grid_step(0.1, SIZE), SystemEntropy()

    def on_the_grid() -> object:
        return add_noise(update, 1.0, step, 1.0, noise)

    def in_float32() -> object:
        return update + np.float32(1.0) * random.standard_normal(SIZE, np.float32)

    on_the_grid()  # the first call compiles
    grid, floating = milliseconds([on_the_grid, in_float32])
    print(f"noise on {SIZE:,} coordinates: grid {grid:.2f} ms, float32 {floating:.2f} ms, ", end="")
    print(f"ratio {grid / floating:.2f}")


if __name__ == "__main__":
    main()
