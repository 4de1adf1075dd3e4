"""Small models whose answers are known without a solver: by enumeration, by a formula, or by construction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.backends.base import Status
from stablenet.core.arrays import Array
from stablenet.milp.arrays import MILP, Indicators, Rows

INF = np.inf


@dataclass(frozen=True, eq=False)
class Known:
    """A model, the status that ends its solve, and its optimum (NaN without)."""

    name: str
    milp: MILP
    status: Status = Status.OPTIMAL
    optimum: float = np.nan


def stream(seed: int) -> Iterator[int]:
    """Numbers from 0 to 2^31 - 1 that are the same on every machine and for every version of NumPy."""
    state = seed
    while True:
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        yield state >> 33


def integers(seed: int, low: int, high: int, shape: tuple[int, ...]) -> Array:
    """An array of whole numbers from low to high, both included."""
    numbers = stream(seed)
    count = int(np.prod(shape))
    return np.array([low + next(numbers) % (high - low + 1) for _ in range(count)], dtype=np.float64).reshape(shape)


def rows(matrix: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> Rows:
    """Rows from anything like an array; single sides are repeated."""
    dense = np.asarray(matrix, dtype=np.float64)
    sides = (np.array(np.broadcast_to(np.asarray(side, dtype=np.float64), len(dense))) for side in (lower, upper))
    low, high = sides
    return Rows(sparse.csr_array(dense), low, high)


def model(
    matrix: npt.ArrayLike,
    sides: tuple[npt.ArrayLike, npt.ArrayLike],
    bounds: tuple[npt.ArrayLike, npt.ArrayLike],
    objective: npt.ArrayLike,
    *,
    integer: npt.ArrayLike = False,
    constant: float = 0.0,
    maximize: bool = False,
) -> MILP:
    """A MILP from anything like arrays; single numbers are repeated."""
    costs = np.asarray(objective, dtype=np.float64)
    n = len(costs)
    lower, upper = (np.array(np.broadcast_to(np.asarray(b, dtype=np.float64), n)) for b in bounds)
    kinds = np.array(np.broadcast_to(np.asarray(integer, dtype=bool), n))
    return MILP(rows(matrix, *sides), lower, upper, kinds, costs, constant, maximize)


def enumerate_optimum(milp: MILP) -> float:
    """The optimum of an all-integer model with finite bounds, by trying all points; NaN if there is none."""
    ranges = [np.arange(low, high + 1) for low, high in zip(milp.lower, milp.upper, strict=True)]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")], axis=1)
    values = points @ milp.rows.matrix.toarray().T
    good = ((values >= milp.rows.lower) & (values <= milp.rows.upper)).all(axis=1)
    if not good.any():
        return float("nan")
    objective = points[good] @ milp.objective + milp.constant
    return float(objective.max() if milp.maximize else objective.min())


def knapsack(seed: int, *, n: int = 7, m: int = 3, maximize: bool = True) -> MILP:
    """A packing (maximising) or covering (minimising) problem with columns of 0 to 2 and a constant."""
    weights = integers(seed, 1, 20, (m, n))
    capacity = weights.sum(axis=1)
    sides = (-INF, capacity) if maximize else (capacity, INF)
    return model(weights, sides, (0, 2), integers(seed + 1, 1, 30, (n,)), integer=True, constant=3.5, maximize=maximize)


def feasible() -> list[Known]:
    """All-integer models of both senses."""
    models = [knapsack(seed, maximize=seed % 2 == 0) for seed in range(10, 16)]
    return [Known(f"knapsack {k}", milp, Status.OPTIMAL, enumerate_optimum(milp)) for k, milp in enumerate(models)]


def infeasible() -> list[Known]:
    """Infeasible as an LP, only as a MILP, by bounds that cross, by a row without coefficients."""
    both = {
        "LP infeasible": model([[1, 1]], (5, INF), (0, 1), [1, 1], integer=True),
        "continuous infeasible": model([[1, 1], [1, 1]], ([2, -INF], [INF, 1]), (0, 5), [1, 1]),
        "only integrality excludes it": model([[2, 2]], (3, 3), (0, 5), [1, 1], integer=True),
        "no integer between bounds": model([[1, 1]], (-INF, 5), (0.2, 0.8), [1, 1], integer=True),
        "crossed column bounds": model([[1, 1]], (0, 2), ([0, 1], [1, 0]), [1, 1], integer=True),
        "crossed row sides": model([[1, 1]], (2, 1), (0, 3), [1, 1], integer=True),
        "empty row that excludes 0": model([[0, 0]], (1, 2), (0, 1), [1, 1], integer=True),
        "infeasible with an unbounded relaxation": model(
            [[2, -2, 0]], (3, 3), (0, INF), [0, 0, 1], integer=[True, True, False], maximize=True
        ),
    }
    return [Known(name, milp, Status.INFEASIBLE) for name, milp in both.items()]


def unbounded() -> list[Known]:
    """Unbounded, with and without integers, in both senses."""
    both = {
        "integer, maximise": model([[1, -1]], (0, 0), (0, INF), [1, 1], integer=True, maximize=True),
        "continuous, maximise": model([[1, -1]], (0, 0), (0, INF), [1, 1], maximize=True),
        "free, minimise": model([[1, -1]], (0, 0), (-INF, INF), [1, 1]),
        "mixed, minimise": model([[1, 1]], (-INF, 4), (-INF, 3), [1, 2], integer=[True, False]),
    }
    return [Known(name, milp, Status.UNBOUNDED) for name, milp in both.items()]


def empty() -> list[Known]:
    """No columns, no rows, neither."""
    nothing = MILP(
        Rows(sparse.csr_array((0, 0)), np.zeros(0), np.zeros(0)),
        *(np.zeros(0),) * 2,
        np.zeros(0, bool),
        np.zeros(0),
        3.0,
    )
    no_rows = MILP(
        Rows(sparse.csr_array((0, 2)), np.zeros(0), np.zeros(0)),
        np.array([-1.0, 0.5]),
        np.array([2.0, 1.5]),
        np.array([True, False]),
        np.array([3.0, -2.0]),
        1.0,
        maximize=True,
    )
    useless_row = model([[0, 0]], (-1, 0), (0, 1), [1, 2], integer=True, maximize=True)
    return [
        Known("nothing", nothing, optimum=3.0),
        Known("no rows", no_rows, optimum=6.0),
        Known("a row without coefficients", useless_row, optimum=3.0),
    ]


def special_numbers() -> list[Known]:
    """Equations only, free columns and rows, large and small coefficients, near ties, an objective far from 0."""
    equations = model(
        [[2, 1, 0], [1, -1, 0], [0, 1, -3]], ([7, -1, -3], [7, -1, -3]), (-INF, INF), [1, 10, -1], integer=[1, 0, 1]
    )
    # |x - 2.5| + |y + 1| with x whole and y >= x.
    free = model(
        [[1, 0, -1, 0], [-1, 0, -1, 0], [0, 1, 0, -1], [0, -1, 0, -1], [1, -1, 0, 0]],
        (-INF, [2.5, -2.5, -1, 1, 0]),
        (-INF, INF),
        [0, 0, 1, 1],
        integer=[1, 0, 0, 0],
    )
    big = model(
        [[1, -1e6], [1, 1e6]],
        (-INF, [0, 1e6 + 1e5]),
        (0, [INF, 1]),
        [1, -7],
        integer=[0, 1],
        maximize=True,
    )
    # Cheapest first: 100 columns at their bound of 100 use the row up, but for rounding.
    light = 1e-7 * (1 + np.arange(200) / 1000)
    small = model(light[None], (-INF, light[:100].sum() * 100), (0, 100), np.ones(200), maximize=True)
    ties = model([[1, 1]], (-INF, 1), (0, 1), [1, 1 + 5e-6], integer=True, maximize=True)
    far = replace(knapsack(40), constant=1e6)
    return [
        Known("equations only", equations, optimum=30.0),
        Known("free columns", free, optimum=3.5),
        Known("coefficients of a million", big, optimum=1e5 - 7),
        Known("coefficients of 1e-7", small, optimum=1e4),
        Known("optima 5e-6 apart", ties, optimum=1 + 5e-6),
        Known("objective far from 0", far, optimum=enumerate_optimum(far)),
        free_row(),
    ]


def free_row() -> Known:
    """An LP with a row that has no finite side."""
    milp = model([[1, 1], [1, -1], [2, 1]], (-INF, [INF, 1, 4]), (0, 3), [1, 1], maximize=True)
    return Known("a row without sides", milp, optimum=3.5)


def tiny_coefficients() -> Known:
    """300 coefficients of 9e-10 that together matter: some solvers delete them and answer 0."""
    matrix = np.concatenate([[[1.0]], np.full((1, 300), -9e-10)], axis=1)
    cost = np.zeros(301)
    cost[0] = 1.0
    return Known("coefficients of 9e-10", model(matrix, (0, 0), (0, 1e6), cost, maximize=True), optimum=0.27)


def many_equal_columns() -> Known:
    """1000 equal columns: HiGHS 1.16 with tolerances of 1e-9 merges them in presolve and reports infeasible."""
    milp = model(np.full((1, 1000), 1e-6), (-INF, 0.075), (0, 100), np.ones(1000), maximize=True)
    return Known("many equal columns", milp, optimum=75000.0)


def relus(seed: int, *, inputs: int = 3, neurons: int = 5) -> tuple[Array, Array, Array, float]:
    """Weights and offsets of ReLUs over [-1, 1]^inputs, positive output weights, and the largest output.

    The output is convex, so the largest is at a vertex.
    """
    weights = integers(seed, -9, 9, (neurons, inputs))
    offset = integers(seed + 1, -9, 9, (neurons,))
    output = integers(seed + 2, 1, 5, (neurons,))
    corners = np.stack([a.ravel() for a in np.meshgrid(*[[-1.0, 1.0]] * inputs, indexing="ij")], axis=1)
    return weights, offset, output, float((np.maximum(corners @ weights.T + offset, 0) @ output).max())


def _split(seed: int) -> tuple[Array, Array, Array, Array, float]:
    """Rows, sides, bounds and costs of ``h - s = W x + b`` with columns x, h, s; the optimum."""
    weights, offset, output, optimum = relus(seed)
    k, n = weights.shape
    matrix = np.concatenate([-weights, np.eye(k), -np.eye(k)], axis=1)
    reach = np.abs(weights).sum(axis=1) + np.abs(offset)
    upper = np.concatenate([np.ones(n), reach, reach])
    return matrix, offset, upper, np.concatenate([np.zeros(n), output, np.zeros(k)]), optimum


def big_m() -> list[tuple[Known, Array]]:
    """ReLUs by big-M, with the forward pass of the origin as a start; columns x, h, s and binaries."""
    found = []
    for seed in range(100, 112):
        matrix, offset, upper, cost, optimum = _split(seed)
        k, n = len(offset), matrix.shape[1] - 2 * len(offset)
        reach, one, none = np.diag(upper[n : n + k]), np.eye(k), np.zeros((k, k))
        # h <= M z and s <= M (1 - z).
        on = np.concatenate([np.zeros((k, n)), one, none, -reach], axis=1)
        off = np.concatenate([np.zeros((k, n)), none, one, reach], axis=1)
        rows_ = np.concatenate([np.concatenate([matrix, none], axis=1), on, off])
        milp = model(
            rows_,
            (np.concatenate([offset, np.full(2 * k, -INF)]), np.concatenate([offset, np.zeros(k), upper[n : n + k]])),
            (np.concatenate([-np.ones(n), np.zeros(3 * k)]), np.concatenate([upper, np.ones(k)])),
            np.concatenate([cost, np.zeros(k)]),
            integer=np.arange(n + 3 * k) >= n + 2 * k,
            maximize=True,
        )
        start = np.concatenate([np.zeros(n), np.maximum(offset, 0), np.maximum(-offset, 0), offset > 0])
        found.append((Known(f"ReLUs by big-M, {seed}", milp, optimum=optimum), start))
    return found


def sos1() -> list[Known]:
    """ReLUs by SOS1 pairs, and sets of several columns."""
    found = []
    for seed in (50, 60, 70):
        matrix, offset, upper, cost, optimum = _split(seed)
        k, n = len(offset), matrix.shape[1] - 2 * len(offset)
        lower = np.concatenate([-np.ones(n), np.zeros(2 * k)])
        base = model(matrix, (offset, offset), (lower, upper), cost, maximize=True)
        pairs = tuple(np.array([n + i, n + k + i], dtype=np.intp) for i in range(k))
        found.append(Known(f"ReLUs by SOS1, {seed}", replace(base, sos1=pairs), optimum=optimum))
    bounds = np.array([3.0, 5.0, 2.0, 4.0, 1.5])
    cost = np.array([2.0, 1.0, 3.5, -1.0, 4.0])
    sets = (np.array([0, 1, 2], dtype=np.intp), np.array([3, 4], dtype=np.intp))
    wide = replace(model([[1.0] * 5], (-INF, 100), (0, bounds), cost, maximize=True), sos1=sets)
    return [*found, Known("SOS1 sets of three and two", wide, optimum=7.0 + 6.0)]


def indicators() -> list[Known]:
    """ReLUs by indicators, switched on by 1 and by 0, with two sides, and over an unbounded column."""
    found = []
    for seed in (80, 90):
        matrix, offset, upper, cost, optimum = _split(seed)
        k, n = len(offset), matrix.shape[1] - 2 * len(offset)
        lower = np.concatenate([-np.ones(n), np.zeros(3 * k)])
        wide = np.concatenate([matrix, np.zeros((k, k))], axis=1)
        kinds = np.arange(n + 3 * k) >= n + 2 * k
        base = model(
            wide,
            (offset, offset),
            (lower, np.concatenate([upper, np.ones(k)])),
            np.concatenate([cost, np.zeros(k)]),
            integer=kinds,
            maximize=True,
        )
        # z = 1: s is in [0, 0]; z = 0: h <= 0.
        off = np.zeros((2 * k, n + 3 * k))
        off[np.arange(k), n + k + np.arange(k)] = 1.0
        off[k + np.arange(k), n + np.arange(k)] = 1.0
        binary = np.tile(n + 2 * k + np.arange(k), 2)
        low = np.concatenate([np.zeros(k), np.full(k, -INF)])
        switched = Indicators(binary.astype(np.intp), np.arange(2 * k) < k, rows(off, low, 0.0))
        found.append(Known(f"ReLUs by indicators, {seed}", replace(base, indicators=switched), optimum=optimum))
    far = model(np.zeros((0, 2)), (0, 0), ([0, 0], [1, INF]), [5.0, -1e-3], integer=[1, 0], maximize=True)
    on = Indicators(np.array([0]), np.array([True]), rows([[0.0, 1.0]], 1000.0, INF))
    return [*found, Known("an indicator over an unbounded column", replace(far, indicators=on), optimum=4.0)]


@dataclass(frozen=True, eq=False)
class Hard:
    """A model whose solve takes long, a good solution of it, and the value of its LP relaxation."""

    milp: MILP
    x: Array
    value: float


def hard(*, maximize: bool = True) -> Hard:
    """A multidimensional knapsack that no solver finishes in seconds, with a solution that is found greedily."""
    m, n = 15, 120
    weights = integers(7, 200, 999, (m, n))
    profit = np.floor(weights.mean(axis=0)) + integers(8, 0, 200, (n,))
    capacity = np.floor(weights.sum(axis=1) / 3)
    x = np.zeros(n)
    for j in np.argsort(-profit / weights.max(axis=0), kind="stable").tolist():
        x[j] = float((weights @ x + weights[:, j] <= capacity).all())
    milp = model(weights, (-INF, capacity), (0, 1), profit if maximize else -profit, integer=True, maximize=maximize)
    return Hard(milp, x, milp.value(x))
