"""Compiled loops over arrays."""

import numba

# Threads run side by side; sums may be reordered and products fused, but NaN stays NaN.
compiled = numba.njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
)
"""Compile a function when it is first called with arrays of these types, and keep the code."""
