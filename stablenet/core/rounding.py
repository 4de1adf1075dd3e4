"""What floating-point arithmetic may have done, bounded (Higham, *Accuracy and Stability*, ch. 3)."""

from __future__ import annotations

UNIT = 2.0**-53
"""Unit roundoff of float64."""


def gamma(n: int) -> float:
    """``n u / (1 - n u)``: the relative error of a scalar product of n terms, in any order."""
    if n * UNIT >= 0.01:
        raise OverflowError(f"a scalar product of {n} terms is too long for rounding bounds in float64")
    return n * UNIT / (1.0 - n * UNIT)
