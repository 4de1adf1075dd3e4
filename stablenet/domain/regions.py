"""Input domains: a box, an L-infinity ball, a polytope within a box, and unions of those.

Whatever its kind, a domain is a list of parts (`Domain.parts`), each of which is a box with
optional linear constraints. Searches and bounds work on parts; questions are closed on the whole.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array
from stablenet.core.errors import DomainError
from stablenet.core.rounding import OVERFLOW, SAFETY, gamma, underflow


class Domain(ABC):
    """A closed, bounded, non-empty set of inputs."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The convex parts whose union it is."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The domain in the form that reports have, plain values."""

    @property
    def n_inputs(self) -> int:
        """Dimension."""
        return self.parts[0].n_inputs

    @property
    def digest(self) -> str:
        """SHA-256 of the parts' numbers and shapes: equal for equal domains, however they were written."""
        digest = hashlib.sha256()
        for part in self.parts:
            arrays = [array for array in (part.lower, part.upper, part.a, part.b) if array is not None]
            digest.update(repr([array.shape for array in arrays]).encode())
            for array in arrays:
                digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    def contains(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which of the points, (batch, n), lie in the domain (exact comparison; polytopes: see `Part`)."""
        array = np.atleast_2d(np.asarray(points, dtype=np.float64))
        return np.asarray(np.stack([part.holds(array) for part in self.parts]).any(axis=0))


def _vector(values: npt.ArrayLike, what: str) -> Array:
    try:
        given = np.asarray(values)
    except ValueError as error:
        raise DomainError(f"{what}: not a vector of numbers ({error})") from None
    if given.dtype.kind not in "biuf":
        raise DomainError(f"{what}: a vector of numbers is expected, got entries of type {given.dtype}")
    if given.ndim != 1 or given.size == 0:
        raise DomainError(f"{what}: a vector is expected, got shape {given.shape}")
    array = given.astype(np.float64) + 0.0  # a copy, without negative zeros: equal boxes are equal bytes
    array.setflags(write=False)
    return array


class Part(Domain):
    """A box ``lower <= x <= upper``, for polytopes with ``a @ x <= b`` besides."""

    lower: Array
    upper: Array
    a: Array | None = None
    b: Array | None = None

    def _set_box(self, lower: npt.ArrayLike, upper: npt.ArrayLike) -> None:
        low, high = _vector(lower, "lower bounds"), _vector(upper, "upper bounds")
        if low.shape != high.shape:
            raise DomainError(f"{len(low)} lower bounds but {len(high)} upper bounds")
        for what, values in (("lower", low), ("upper", high)):
            bad = np.flatnonzero(~np.isfinite(values))
            if bad.size:
                raise DomainError(
                    f"{what} bound of input {bad[0]} is {values[bad[0]]}; every input needs finite bounds"
                )
        empty = np.flatnonzero(low > high)
        if empty.size:
            i = empty[0]
            raise DomainError(f"input {i}: lower bound {low[i]} exceeds upper bound {high[i]}; the domain is empty")
        object.__setattr__(self, "lower", low)
        object.__setattr__(self, "upper", high)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Itself."""
        return (self,)

    @property
    def n_inputs(self) -> int:
        """Dimension."""
        return len(self.lower)

    def clip(self, points: Array) -> Array:
        """The nearest points of the box (not of the polytope)."""
        return np.clip(points, self.lower, self.upper)

    def holds(self, points: Array) -> npt.NDArray[np.bool_]:
        """Which of the points, (batch, n), surely lie in the part: exact for a box, after rounding for rows."""
        inside = np.asarray(((points >= self.lower) & (points <= self.upper)).all(axis=-1))
        if self.a is not None and self.b is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                inside &= self._rows_hold(points, self.a, self.b).all(axis=-1)
        return inside

    def _rows_hold(self, points: Array, a: Array, b: Array) -> npt.NDArray[np.bool_]:
        """Where ``a @ x <= b`` in spite of rounding, underflow and overflow, (batch, rows)."""
        sizes = np.abs(points) @ np.abs(a).T + np.abs(b)
        slack = SAFETY * gamma(self.n_inputs + 4) * sizes
        # Where all products are 0 nothing can underflow, and a point on the row stays inside.
        products = (points != 0).astype(np.float64) @ (a != 0).astype(np.float64).T
        slack = np.where(products > 0, slack + underflow(self.n_inputs), 0.0)
        return np.asarray((points @ a.T + slack <= b) & (sizes < OVERFLOW))


@dataclass(frozen=True, eq=False)
class Box(Part):
    """``lower <= x <= upper``, both (n_inputs,), finite."""

    lower: Array
    upper: Array

    def __post_init__(self) -> None:
        self._set_box(self.lower, self.upper)

    def to_json(self) -> dict[str, Any]:
        """The domain in the form that reports have, plain values."""
        return {"kind": "box", "lower": self.lower.tolist(), "upper": self.upper.tolist()}


class LinfBall(Box):
    """The box of the inputs within ``eps`` of ``center`` in every coordinate, clipped to ``[lower, upper]``.

    ``center`` is (n_inputs,); the bounds are numbers or vectors, None for no clipping. The box is the
    smallest in float64 that contains the ball: its bounds are rounded outward before clipping.
    """

    def __init__(
        self,
        center: npt.ArrayLike,
        eps: float,
        lower: npt.ArrayLike | None = None,
        upper: npt.ArrayLike | None = None,
    ) -> None:
        mid = _vector(center, "centre")
        bad = np.flatnonzero(~np.isfinite(mid))
        if bad.size:
            raise DomainError(f"centre: entry {bad[0]} is {mid[bad[0]]}; finite numbers are expected")
        if not (np.isfinite(eps) and eps >= 0):
            raise DomainError(f"radius {eps}; a finite number >= 0 is expected")
        low, high = _outward(mid, -float(eps)), _outward(mid, float(eps))
        if lower is not None:
            low = np.maximum(low, _limit(lower, len(mid), "lower"))
        if upper is not None:
            high = np.minimum(high, _limit(upper, len(mid), "upper"))
        outside = np.flatnonzero(low > high)
        if outside.size:
            i = outside[0]
            raise DomainError(
                f"input {i}: no value within {eps} of the centre {mid[i]} lies within the limits; the domain is empty"
            )
        super().__init__(low, high)


def _limit(values: npt.ArrayLike, size: int, what: str) -> Array:
    """A clipping limit, a number or a vector, as a vector; infinite ones clip nothing."""
    limit = _vector(np.atleast_1d(np.asarray(values)), f"{what} limits")
    if len(limit) not in (1, size):
        raise DomainError(f"{len(limit)} {what} limits for a centre of {size} inputs")
    if np.isnan(limit).any():
        raise DomainError(f"{what} limits: a number is NaN")
    return np.broadcast_to(limit, (size,))


def _outward(mid: Array, shift: float) -> Array:
    """``mid + shift`` rounded away from ``mid``, exactly where the sum is exact (Knuth's two-sum)."""
    total = mid + shift
    virtual = total - mid
    error = (mid - (total - virtual)) + (shift - virtual)
    outward = error < 0 if shift < 0 else error > 0
    return np.where(outward, np.nextafter(total, np.inf if shift > 0 else -np.inf), total)


@dataclass(frozen=True, eq=False)
class Polytope(Part):
    """``a @ x <= b`` within the box ``lower <= x <= upper``; a is (rows, n_inputs), b is (rows,)."""

    lower: Array
    upper: Array
    a: Array
    b: Array

    def __post_init__(self) -> None:
        self._set_box(self.lower, self.upper)
        rows = np.array(self.a, dtype=np.float64)
        rhs = _vector(self.b, "right-hand side")
        if rows.shape != (len(rhs), self.n_inputs):
            raise DomainError(f"a has shape {rows.shape}; {(len(rhs), self.n_inputs)} is expected")
        if not (np.isfinite(rows).all() and np.isfinite(rhs).all()):
            raise DomainError("a and b must be finite")
        rows += 0.0  # no negative zeros
        rows.setflags(write=False)
        object.__setattr__(self, "a", rows)
        object.__setattr__(self, "b", rhs)

    def is_empty(self) -> bool:
        """Whether an LP solver (HiGHS in SciPy) finds no point in it.

        Within the solver's tolerance: a very thin empty polytope may pass as non-empty.
        Raises `DomainError` if the solver gives no answer.
        """
        from scipy.optimize import linprog

        bounds = list(zip(self.lower.tolist(), self.upper.tolist(), strict=True))
        answer = linprog(np.zeros(self.n_inputs), A_ub=self.a, b_ub=self.b, bounds=bounds, method="highs")
        if answer.status not in (0, 2):
            raise DomainError(f"whether the polytope is empty could not be decided: {answer.message}")
        return bool(answer.status == 2)

    def to_json(self) -> dict[str, Any]:
        """The domain in the form that reports have, plain values."""
        return {
            "kind": "polytope",
            "lower": self.lower.tolist(),
            "upper": self.upper.tolist(),
            "a": self.a.tolist(),
            "b": self.b.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Union(Domain):
    """The union of several parts of one dimension."""

    members: tuple[Part, ...]

    def __init__(self, members: Sequence[Part]) -> None:
        if not members:
            raise DomainError("a union needs at least one part")
        sizes = {part.n_inputs for part in members}
        if len(sizes) != 1:
            raise DomainError(f"parts of different dimensions {sorted(sizes)} in one union")
        object.__setattr__(self, "members", tuple(members))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The members."""
        return self.members

    def to_json(self) -> dict[str, Any]:
        """The domain in the form that reports have, plain values."""
        if len(self.members) == 1:
            return self.members[0].to_json()
        return {"kind": "union", "parts": [part.to_json() for part in self.members]}


def domain_from_json(data: Mapping[str, Any]) -> Domain:
    """The domain that `Domain.to_json` wrote; raises `DomainError` for anything else."""
    try:
        match data["kind"]:
            case "box":
                return Box(data["lower"], data["upper"])
            case "polytope":
                return Polytope(data["lower"], data["upper"], data["a"], data["b"])
            case "union":
                return Union([part for member in data["parts"] for part in domain_from_json(member).parts])
            case kind:
                raise DomainError(f"domain of kind {kind!r}; box, polytope and union exist")
    except DomainError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise DomainError(f"a domain in JSON lacks or garbles {str(error)[:200]}") from None
    except RecursionError:
        raise DomainError("a domain in JSON is nested too deeply") from None
