"""Bounds on the rounding of floating-point arithmetic (Higham, *Accuracy and Stability*, ch. 2 and 3).

A computed product of two numbers is off by a share `UNIT` of it or, where it underflows, by up to half of `TINY`; a sum
never underflows inexactly. So an error bound made of `gamma` alone is wrong near 1e-300, and it is so in two ways: the
result may have underflowed, and so may the bound. Two rules keep it right. The factor is applied *after* the sum of
magnitudes (``gamma(n) * (|W| @ m)``, never ``|W| @ (gamma(n) * m)``), so that what the bound itself loses is not
multiplied by a large weight. And every sum of products gets `underflow` of its length added, or `UNDERFLOW`.
Magnitudes from `OVERFLOW` up count as infinite: a partial sum may have been.
"""

from __future__ import annotations

from stablenet.core.errors import InputError

UNIT = 2.0**-53
"""Unit roundoff of float64."""

TINY = 2.0**-1074
"""The smallest positive float64: more than underflow costs in one product."""

OVERFLOW = 2.0**1020
"""Sums of magnitudes that reach this may have overflowed on the way, in some order of summation."""

SAFETY = 1.001
"""Covers the rounding of the error bounds themselves, which are sums of up to 10^8 nonnegative terms."""

UNDERFLOW = 1e-305
"""More than all underflow of one pass through a network can add up to, in units of the largest magnitude: 10^18 `TINY`,
one for each of its products."""


UNIT32 = 2.0**-24
"""Unit roundoff of float32."""

SMALLEST32 = 2.0**-126
"""The smallest normal float32: what a result, or an operand, that is flushed to zero can lose."""

LARGEST32 = 2.0**127
"""Sums of magnitudes that reach this may overflow float32 on the way, in some order of summation."""


def gamma(n: int) -> float:
    """``n u / (1 - n u)``: the relative error of a scalar product of n terms, in any order, but for underflow."""
    if n * UNIT >= 0.01:
        raise OverflowError(f"a scalar product of {n} terms is too long for rounding bounds in float64")
    return n * UNIT / (1.0 - n * UNIT)


def gamma32(n: int) -> float:
    """``n u / (1 - n u)`` for float32, rounded up; raises `InputError` for so many roundings that the bound is
    useless.
    """
    if n * UNIT32 > 0.25:
        raise InputError(f"a value that float32 rounds {n} times on the way cannot be bounded; --arithmetic real")
    return SAFETY * n * UNIT32 / (1.0 - n * UNIT32)


def underflow(n: int) -> float:
    """What underflow may cost in a scalar product of n terms, and as much again in the bound of its error."""
    return (4 * n + 8) * TINY
