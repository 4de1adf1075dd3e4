"""Small dense networks as ONNX files, and backends that lie, for the tests of the run path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx_models import model, node, save
from stablenet.backends.base import (
    Availability,
    Backend,
    Capability,
    Limits,
    Session,
    Settings,
    SolveResult,
    Status,
)
from stablenet.backends.highs import Highs

from stablenet.milp.arrays import MILP
from stablenet.testing.liar import ForwardingSession


def dense(folder: Path, sizes: tuple[int, ...] = (3, 6, 6, 2), seed: int = 11, name: str = "net.onnx") -> Path:
    """A random dense network, ReLU after each layer but the last."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], {}, "x"
    for k, (n, m) in enumerate(pairwise(sizes)):
        weights[f"w{k}"], weights[f"b{k}"] = rng.normal(size=(m, n)), 0.5 * rng.normal(size=m)
        out = "y" if k == len(sizes) - 2 else f"g{k}"
        nodes.append(node("Gemm", last, f"w{k}", f"b{k}", out=out, transB=1))
        if out != "y":
            nodes.append(node("Relu", out, out=f"h{k}"))
            last = f"h{k}"
    return save(model(nodes, [1, sizes[0]], weights), folder, name)


Twist = Callable[[MILP, SolveResult], SolveResult]


class TwistedSession(ForwardingSession):
    """HiGHS, with its answers changed."""

    def __init__(self, session: Session, twist: Twist) -> None:
        super().__init__(session)
        self.twist = twist

    def solve(self, limits: Limits, **wanted: Any) -> SolveResult:
        return self.twist(self.milp, super().solve(limits, **wanted))


def twisted(twist: Twist, name: str = "liar") -> type[Backend]:
    """A backend class whose answers are those of HiGHS, twisted."""

    class Twisted(Backend):
        title = "Liar"
        # No incumbents while running: what the search learns is what the answer says.
        capabilities = frozenset({Capability.START, Capability.DUAL_STOP, Capability.NODE_LIMIT, Capability.SEED})

        def available(self) -> Availability:
            return Availability(True, "1", "")

        def open(self, milp: MILP, settings: Settings = Settings()) -> Session:
            return TwistedSession(Highs().open(milp, settings), twist)

    Twisted.name = name
    return Twisted


def honest(_milp: MILP, result: SolveResult) -> SolveResult:
    return result


def infeasible(_milp: MILP, result: SolveResult) -> SolveResult:
    return dataclasses.replace(
        result, status=Status.INFEASIBLE, solver_status="infeasible", x=None, objective=None, dual_bound=np.inf
    )


def false_optimum(milp: MILP, result: SolveResult) -> SolveResult:
    """Nothing can be witnessed, says this one, and shows a point that claims nothing."""
    return dataclasses.replace(
        result,
        status=Status.OPTIMAL,
        solver_status="optimal",
        x=np.zeros(milp.n_columns),
        objective=0.0,
        dual_bound=0.0,
    )


def false_bound(_milp: MILP, result: SolveResult) -> SolveResult:
    """The bound refutes everything; there is no point."""
    return dataclasses.replace(
        result, status=Status.DUAL_STOP, solver_status="bound", x=None, objective=None, dual_bound=-1.0
    )


def just_refuting(milp: MILP) -> float:
    """A bound that refutes and that a point which shows nothing does not disprove: of witness values 0."""
    asked = milp.objective != 0
    return 0.0 if bool((milp.lower[asked] >= 0).all()) else -2e-5


def believable(milp: MILP, result: SolveResult) -> SolveResult:
    """The bound refutes everything by little."""
    return dataclasses.replace(
        result, status=Status.DUAL_STOP, solver_status="bound", x=None, objective=None, dual_bound=just_refuting(milp)
    )


def false_bound_in_time(milp: MILP, result: SolveResult) -> SolveResult:
    return dataclasses.replace(
        result, status=Status.TIME, solver_status="time limit", x=None, objective=None, dual_bound=just_refuting(milp)
    )


def wrong_incumbent(milp: MILP, result: SolveResult) -> SolveResult:
    """Claims everything, at a point that shows little of it."""
    x = np.ones(milp.n_columns)
    return dataclasses.replace(
        result, status=Status.OPTIMAL, solver_status="optimal", x=x, objective=99.0, dual_bound=99.0
    )


def not_a_point(_milp: MILP, result: SolveResult) -> SolveResult:
    return dataclasses.replace(
        result, status=Status.OPTIMAL, solver_status="optimal", x=np.full(3, np.nan), objective=1.0, dual_bound=1.0
    )
