"""Sums that run backwards over the rows of episodes."""

from __future__ import annotations

from expkit.kernels import kernel


@kernel
def sum_backwards(values, factors, out):
    """out[i] = values[i] + factors[i] * out[i + 1], from the last row to the first; a factor of 0 begins anew.

    values, factors, out  float64 (rows,); the factor of the last row counts as 0
    """
    carried = 0.0
    for i in range(len(values) - 1, -1, -1):
        # Not a product with a factor of 0: what is carried may be infinite.
        carried = values[i] + factors[i] * carried if factors[i] != 0.0 else values[i]
        out[i] = carried
