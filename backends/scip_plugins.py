"""The SCIP plugins that call a search's callbacks while SCIP runs.

PySCIPOpt prints and swallows what a plugin raises, so nothing leaves one: `Watch.ask` keeps the error for
the asking thread. The classes are made inside functions since their bases come from PySCIPOpt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stablenet.backends.session import Watch

from stablenet.core.arrays import Array
from stablenet.milp.arrays import Rows

FREQUENT = 1
FIRST = 1_000_000
"""Priority of what is asked before SCIP's own plugins."""


def bound(model: Any, value: float) -> float:
    """A bound of SCIP's; NaN for its infinity of 1e20."""
    return float("nan") if abs(value) >= model.infinity() else float(value)


class Link:
    """Between the plugins of one SCIP model and the solve under way; ``watch`` is None between solves."""

    def __init__(self, api: Any, model: Any, columns: Sequence[Any]) -> None:
        self.model = model
        self.columns = columns
        # Asked there to stop, SCIP fails: a start that is good enough is told once the root node has begun.
        self.deaf = {api.SCIP_STAGE.TRANSFORMING, api.SCIP_STAGE.INITSOLVE}
        self.watch: Watch | None = None
        self.pending: list[Rows] = []
        """Lazy rows that the search gave and SCIP does not hold yet."""
        self.included: set[str] = set()

    def point(self, solution: Any | None) -> Array:
        """Values of all columns in a solution, or in the LP point for None."""
        value = self.model.getSolVal
        return np.array([value(solution, column) for column in self.columns], dtype=np.float64)

    def finish(self) -> None:
        """Stop SCIP if the watch has a reason and SCIP can be stopped now."""
        if self.watch is not None and self.watch.reason is not None and self.model.getStage() not in self.deaf:
            self.model.interruptSolve()


def include_events(api: Any, link: Link) -> None:
    """Report new incumbents and better dual bounds."""
    kinds = api.SCIP_EVENTTYPE

    class Events(api.Eventhdlr):  # type: ignore[misc]
        def eventinit(self) -> None:
            self.model.catchEvent(kinds.BESTSOLFOUND, self)
            self.model.catchEvent(kinds.DUALBOUNDIMPROVED, self)
            self.model.catchEvent(kinds.NODEFOCUSED, self)

        def eventexec(self, event: Any) -> None:
            watch = link.watch
            if watch is None:
                return
            if event.getType() == kinds.BESTSOLFOUND:
                watch.saw_point(link.point(self.model.getBestSol()))
            elif event.getType() == kinds.DUALBOUNDIMPROVED:
                watch.saw_bound(bound(self.model, self.model.getDualbound()))
            link.finish()

    link.model.includeEventhdlr(Events(), "stablenet_events", "incumbents and dual bounds")


def include_proposals(api: Any, link: Link) -> None:
    """Ask the search for a solution after the LP of each node."""

    class Proposals(api.Heur):  # type: ignore[misc]
        def heurexec(self, *arguments: Any) -> dict[str, Any]:
            _timing, nodeinfeasible = arguments
            watch = link.watch
            propose = None if watch is None else watch.request.callbacks.propose
            solved = self.model.getLPSolstat() == api.SCIP_LPSOLSTAT.OPTIMAL
            if watch is None or propose is None or nodeinfeasible or not solved:
                return {"result": api.SCIP_RESULT.DIDNOTRUN}
            x = watch.ask(propose, link.point(None))
            link.finish()
            if x is None:
                return {"result": api.SCIP_RESULT.DIDNOTFIND}
            # `createSol` lives in the presolved space and drops the values of columns that are gone there.
            solution = self.model.createOrigSol(self)
            for j in np.flatnonzero(x).tolist():
                self.model.setSolVal(solution, link.columns[j], float(x[j]))
            taken = self.model.trySol(solution, printreason=False)
            return {"result": api.SCIP_RESULT.FOUNDSOL if taken else api.SCIP_RESULT.DIDNOTFIND}

    link.model.includeHeur(
        Proposals(),
        "stablenet_proposals",
        "solutions by forward pass",
        "Y",
        priority=FIRST,
        freq=FREQUENT,
        timingmask=api.SCIP_HEURTIMING.AFTERLPNODE,
    )


def include_cuts(api: Any, link: Link) -> None:
    """Ask the search for cuts against each LP point."""

    class Cuts(api.Sepa):  # type: ignore[misc]
        def sepaexeclp(self) -> dict[str, Any]:
            watch = link.watch
            separate = None if watch is None else watch.request.callbacks.separate
            if watch is None or separate is None:
                return {"result": api.SCIP_RESULT.DIDNOTRUN}
            rows = watch.ask(separate, link.point(None))
            link.finish()
            if rows is None or not len(rows.lower):
                return {"result": api.SCIP_RESULT.DIDNOTFIND}
            result = api.SCIP_RESULT.SEPARATED
            for cut in self._cuts(rows):
                if self.model.addCut(cut, forcecut=True):
                    result = api.SCIP_RESULT.CUTOFF
                self.model.releaseRow(cut)
            return {"result": result}

        def _cuts(self, rows: Rows) -> Any:
            for i, (columns, values) in enumerate(_entries(rows)):
                low, high = _sides(rows, i)
                cut = self.model.createEmptyRowSepa(self, "", low, high, local=False)
                self.model.cacheRowExtensions(cut)
                for j, value in zip(columns, values, strict=True):
                    self.model.addVarToRow(cut, self.model.getTransformedVar(link.columns[j]), value)
                self.model.flushRowExtensions(cut)
                yield cut

    link.model.includeSepa(Cuts(), "stablenet_cuts", "cuts of the formulation", priority=FIRST, freq=FREQUENT)


def include_lazy(api: Any, link: Link) -> None:
    """Ask the search for rows that candidates must satisfy."""

    class Lazy(api.Conshdlr):  # type: ignore[misc]
        def conslock(self, constraint: Any, locktype: Any, nlockspos: int, nlocksneg: int) -> None:
            # Rows to come may hold any column, either way round, so presolve must not fix one for its cost.
            del constraint, locktype
            for column in link.columns:
                inside = self.model.getTransformedVar(column)
                self.model.addVarLocks(inside, nlockspos + nlocksneg, nlockspos + nlocksneg)

        def conscheck(self, constraints: Any, solution: Any, *_rest: Any) -> dict[str, Any]:
            del constraints
            broken = _broken(link, link.point(solution))
            link.finish()
            return {"result": api.SCIP_RESULT.INFEASIBLE if broken else api.SCIP_RESULT.FEASIBLE}

        def consenfolp(self, *_arguments: Any) -> dict[str, Any]:
            return self._enforce()

        def consenfops(self, *_arguments: Any) -> dict[str, Any]:
            return self._enforce()

        def _enforce(self) -> dict[str, Any]:
            _broken(link, link.point(None))
            link.finish()
            if not link.pending:
                return {"result": api.SCIP_RESULT.FEASIBLE}
            for rows in link.pending:
                for i, (columns, values) in enumerate(_entries(rows)):
                    terms = api.quicksum(v * link.columns[j] for j, v in zip(columns, values, strict=True))
                    self.model.addCons(api.scip.ExprCons(terms, *_sides(rows, i)))
            link.pending = []
            return {"result": api.SCIP_RESULT.CONSADDED}

    link.model.includeConshdlr(
        Lazy(),
        "stablenet_lazy",
        "rows given while solving",
        enfopriority=-FIRST,
        chckpriority=-FIRST,
        needscons=False,
    )


def _broken(link: Link, x: Array) -> bool:
    """Whether a candidate breaks a row given before or one that the search now gives."""
    watch = link.watch
    lazy = None if watch is None else watch.request.callbacks.lazy
    if watch is None or lazy is None:
        return False
    if any(_violates(rows, x) for rows in link.pending):
        return True
    rows = watch.ask(lazy, x)
    if rows is None or not len(rows.lower):
        return False
    link.pending.append(rows)
    return _violates(rows, x)


def _violates(rows: Rows, x: Array) -> bool:
    values = rows.matrix @ x
    return bool(np.any((values < rows.lower - 1e-9) | (values > rows.upper + 1e-9)))


def _entries(rows: Rows) -> Any:
    matrix = rows.matrix
    for i in range(len(rows.lower)):
        part = slice(matrix.indptr[i], matrix.indptr[i + 1])
        yield matrix.indices[part].tolist(), matrix.data[part].tolist()


def _sides(rows: Rows, i: int) -> tuple[float | None, float | None]:
    low, high = float(rows.lower[i]), float(rows.upper[i])
    return (low if np.isfinite(low) else None), (high if np.isfinite(high) else None)
