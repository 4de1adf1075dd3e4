"""Models that some version of some solver answered wrongly, with what is true of them.

Small ones from reports to the authors of HiGHS are written down here; those of our own are built anew: big-M models of
networks with a *planted* neuron, whose largest value is known to be positive, but may be small beside its range. Of
models that may not be passed on only the address and the size are known (`EXTERNAL`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.instances.models import rounded_bounds
from stablenet.milp.arrays import MILP, Rows
from stablenet.pyomo_model.search_model import build_search_model


@dataclass(frozen=True, eq=False)
class Truth:
    """A model, a feasible point (n,), and a bound that no point beats, where one is certain."""

    milp: MILP
    point: Array
    dual: float | None
    meaning: str
    origin: str


@dataclass(frozen=True)
class External:
    """A model that a user may get from its address: its size, value and bound (of what was stated there)."""

    name: str
    address: str
    rows: int
    columns: int
    nonzeros: int
    primal: float | None
    dual: float | None
    what: str


EXTERNAL = (
    External(
        "highs-3090", "https://github.com/ERGO-Code/HiGHS/issues/3090", 73, 112, 177, 0.0, 0.0,
        "HiGHS 1.14.0 says infeasible; it is feasible, and its objective is 0 everywhere",
    ),
    External(
        "highs-2980", "https://github.com/ERGO-Code/HiGHS/issues/2980", 150, 101, 645, None, None,
        "HiGHS 1.13 and later call a solution optimal that is not; give a better one as highs-2980.sol",
    ),
)  # fmt: skip
"""Attachments of reports, without a licence to pass them on. ``check --backend`` uses NAME.mps of the folder."""


def _small(
    rows: Sequence[Sequence[float]], lower: Sequence[float], bounds: Sequence[tuple[float, float]], *,
    integer: Sequence[bool], cost: Sequence[float], columns: Sequence[str],
) -> MILP:  # fmt: skip
    matrix = sparse.csr_array(np.array(rows, dtype=np.float64))
    low, high = np.array(bounds, dtype=np.float64).T
    return MILP(
        Rows(matrix, np.array(lower, dtype=np.float64), np.full(len(lower), np.inf)), low, high,
        np.array(integer, dtype=bool), np.array(cost, dtype=np.float64), columns=list(columns),
        row_names=[f"at_least[{i}]" for i in range(len(lower))],
    )  # fmt: skip


def _one_row() -> Truth:
    milp = _small([[1.0, 1.0]], [4.5], [(0, 10), (0, 10)], integer=[False, True], cost=[2.0, 3.0], columns=["x", "z"])
    what = "2 x + 3 z is at least twice the sum, which is at least 4.5; HiGHS 1.14.0 says 15"
    return Truth(milp, np.array([4.5, 0.0]), 9.0, what, "github.com/ERGO-Code/HiGHS/issues/2957")


def _ten_pairs() -> Truth:
    n = 10
    rows = np.hstack([2.0 * np.eye(n), np.eye(n)])
    milp = _small(
        rows.tolist(), [10.0] * n, [(0, 1)] * n + [(9, 100)] * n,
        integer=[True] * n + [False] * n, cost=[2.0] * n + [1.0] * n,
        columns=[f"x[{i}]" for i in range(n)] + [f"y[{i}]" for i in range(n)],
    )  # fmt: skip
    what = "the objective is the sum of the rows; HiGHS 1.14.0 says 110"
    point = np.concatenate([np.zeros(n), np.full(n, 10.0)])
    return Truth(milp, point, 100.0, what, "github.com/PyPSA/linopy/issues/651")


def _three_columns() -> Truth:
    rows = [[-89.0, -40.7, -12.0], [-0.1, 77.2, -23.7], [-8.6, -6.5, 72.78]]
    milp = _small(
        rows, [3994.5, -4878.3, -4930.0], [(-100, 120), (-100, 10), (-100, 0)],
        integer=[True, False, True], cost=[-93.0, 25.0, 17.0], columns=["v0", "v1", "v2"],
    )  # fmt: skip
    # A little inside of the row that decides; the bound is the optimum over all 22,321 integer pairs, in fractions.
    point = np.array([4.0, -66317.0 / 772.0 + 1e-9, -74.0])
    what = "HiGHS 1.11.0 says infeasible"
    return Truth(milp, point, -2916285.0 / 772.0, what, "github.com/ERGO-Code/HiGHS/issues/2432")


def _three_neurons() -> Truth:
    weight = np.array([[-0.0026851891785331285]])
    layer = Layer(AffineMap(np.array([0.0036921333726902387]), (Term(0, weight),)), "relu0", (1,))
    network = Network(1, (layer,), AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))),)))
    box = Box(np.array([-0.625]), np.array([1.375]))
    bounds = rounded_bounds(network, (box,))
    model = build_search_model(network, box, bounds, "hull", positive=[[0]], negative=[], margin=1e-8, decide=False)
    point = model.point(np.array([-0.625]))
    what = "the hull of one neuron that can be positive; Gurobi 13.0.3 says 0 at FeasibilityTol 1e-9"
    return Truth(model.milp, point, 1.0, what, "stablenet")


def _in_order(points: Array, matrix: Array) -> Array:
    """``points @ matrix.T``, summed in the order of the columns on every machine."""
    return np.asarray(sum(points[:, j, None] * matrix[:, j] for j in range(matrix.shape[1])))


def planted(seed: int, share: float, spread: int) -> Truth:
    """A network whose last neuron is positive at a corner by ``share`` of its range over corners.

    Rows of the two hidden layers differ in size by factors of up to ``2 ** (6 * spread)``.
    """
    rng = np.random.default_rng(seed)
    n, sizes = 6, (6, 5)
    weights, biases = [], []
    for rows, columns in zip(sizes, (n, sizes[0]), strict=True):
        size = 2.0 ** rng.integers(-3 * spread, 3 * spread + 1, (rows, 1))
        weights.append(np.round(rng.uniform(-2, 2, (rows, columns)), 3) * size)
        biases.append(np.round(rng.uniform(-1, 1, rows), 3) * size[:, 0])
    last = np.round(rng.uniform(-2, 2, (1, sizes[1])), 3)
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * n)).reshape(n, -1).T
    hidden = corners
    for matrix, offset in zip(weights, biases, strict=True):
        hidden = np.maximum(_in_order(hidden, matrix) + offset, 0.0)
    values = _in_order(hidden, last)[:, 0]
    best, width = int(values.argmax()), float(np.ptp(values))
    maps = [AffineMap(b, (Term(k, w),)) for k, (w, b) in enumerate(zip(weights, biases, strict=True))]
    maps.append(AffineMap(np.array([share * width - values[best]]), (Term(2, last),)))
    layers = tuple(Layer(each, f"relu{k}", (each.size,)) for k, each in enumerate(maps))
    network = Network(n, layers, AffineMap(np.zeros(1), (Term(3, np.ones((1, 1))),)))
    box = Box(-np.ones(n), np.ones(n))
    bounds = rounded_bounds(network, (box,))
    asked: list[list[int]] = [[], [], [0]]
    model = build_search_model(network, box, bounds, "bigm", positive=asked, negative=[], margin=0.0, witness=False)
    objective, scale = model.question_objective(2, 0, 1)
    # In units of the planted value, so that what a tolerance of the objective hides is told too.
    milp = replace(model.milp, objective=objective / (scale * share * width), maximize=True)
    point = model.point(corners[best])
    what = f"a neuron's largest value at a corner is at least 1, {share:g} of its range"
    return Truth(milp, point, None, what, "stablenet")


MODELS: dict[str, Callable[[], Truth]] = {
    "highs-2957": _one_row,
    "highs-2432": _three_columns,
    "linopy-651": _ten_pairs,
    "gurobi-three-neurons": _three_neurons,
    **{
        f"planted-{seed}-{share:g}": partial(planted, seed, share, 1 + seed % 3)
        for seed in range(6)
        for share in (1e-5, 1e-7)
    },
}
"""By name, how each is made."""
