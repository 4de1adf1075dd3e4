"""Solves models through Pyomo in a process of its own: ``python -m stablenet.backends.pyomo_child``.

Many of Pyomo's plugins can be neither interrupted nor silenced from within a process. This one reads
one request in JSON a line from standard input, with the model in a file of arrays, and answers in one line. It ends
with its input.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from stablenet.milp.arrays import MILP, Rows


def save(milp: MILP, path: Path) -> None:
    """Write linear rows, bounds, integrality, objective and SOS1 sets as arrays."""
    matrix = milp.rows.matrix
    np.savez(
        path,
        data=matrix.data,
        indices=matrix.indices,
        indptr=matrix.indptr,
        row_lower=milp.rows.lower,
        row_upper=milp.rows.upper,
        lower=milp.lower,
        upper=milp.upper,
        integer=milp.integer,
        objective=milp.objective,
        constant=np.array([milp.constant]),
        maximize=np.array([milp.maximize]),
        sos_members=np.concatenate([*milp.sos1, np.zeros(0, dtype=np.intp)]),
        sos_sizes=np.array([len(members) for members in milp.sos1], dtype=np.intp),
    )


def load(path: Path) -> MILP:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as a:
        shape = (len(a["row_lower"]), len(a["lower"]))
        matrix = sparse.csr_array((a["data"], a["indices"], a["indptr"]), shape=shape)
        cuts = np.cumsum(a["sos_sizes"])[:-1]
        sets = tuple(np.split(a["sos_members"].astype(np.intp), cuts)) if len(a["sos_sizes"]) else ()
        return MILP(
            Rows(matrix, a["row_lower"], a["row_upper"]),
            a["lower"],
            a["upper"],
            a["integer"],
            a["objective"],
            float(a["constant"][0]),
            bool(a["maximize"][0]),
            sos1=sets,
        )


def build(milp: MILP) -> Any:
    """The arrays as a Pyomo model with variables ``x[j]`` and constraints ``row[i]``."""
    import pyomo.environ as pyo
    from pyomo.common.gc_manager import PauseGC
    from pyomo.core.expr import LinearExpression

    with PauseGC():
        model = pyo.ConcreteModel()
        kinds = [pyo.Integers if integer else pyo.Reals for integer in milp.integer.tolist()]
        bounds = [(_side(low), _side(high)) for low, high in zip(milp.lower.tolist(), milp.upper.tolist(), strict=True)]
        model.x = pyo.Var(range(milp.n_columns), domain=lambda _, j: kinds[j], bounds=lambda _, j: bounds[j])
        columns = [model.x[j] for j in range(milp.n_columns)]
        matrix = milp.rows.matrix
        begin, indices, data = matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
        low, high = milp.rows.lower.tolist(), milp.rows.upper.tolist()

        def row(_model: Any, i: int) -> Any:
            part = slice(begin[i], begin[i + 1])
            if begin[i] == begin[i + 1] or (low[i] == -np.inf and high[i] == np.inf):
                return pyo.Constraint.Skip
            body = LinearExpression(linear_coefs=data[part], linear_vars=[columns[j] for j in indices[part]])
            return (_side(low[i]), body, _side(high[i])) if low[i] != high[i] else (body, low[i])

        model.row = pyo.Constraint(range(milp.n_rows), rule=row)
        used = np.flatnonzero(milp.objective).tolist()
        cost = LinearExpression(
            constant=milp.constant,
            linear_coefs=milp.objective[used].tolist(),
            linear_vars=[columns[j] for j in used],
        )
        model.cost = pyo.Objective(expr=cost, sense=pyo.maximize if milp.maximize else pyo.minimize)
        for k, members in enumerate(milp.sos1):
            weights = {j: float(place) for place, j in enumerate(members.tolist(), start=1)}
            model.add_component(f"sos{k}", pyo.SOSConstraint(var=model.x, index=list(weights), weights=weights, sos=1))
    return model


def _side(value: float) -> float | None:
    return value if np.isfinite(value) else None


def solve(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request: the solver's words, its point or null, its bound or null."""
    from pyomo.opt import SolverFactory

    milp = load(Path(request["model"]))
    model = build(milp)
    solver = SolverFactory(request["solver"])
    for name, value in request["options"].items():
        solver.options[name] = value
    arguments = {"load_solutions": False, "tee": request["log"]}
    if request["time"] is not None:
        arguments["timelimit"] = request["time"]
    results = solver.solve(model, **arguments)
    x = None
    if len(results.solution):
        model.solutions.load_from(results)
        x = _point(milp, [model.x[j].value for j in range(milp.n_columns)])
    bound = results.problem.upper_bound if milp.maximize else results.problem.lower_bound
    return {"words": str(results.solver.termination_condition), "x": x, "bound": _number(bound)}


def _point(milp: MILP, values: list[float | None]) -> list[float] | None:
    """The point, if the solver gave all of it that it saw; a column in no row and without cost it did not see."""
    x = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    unseen = np.isnan(x) & (np.diff(milp.rows.matrix.tocsc().indptr) == 0) & (milp.objective == 0)
    x[unseen] = np.clip(0.0, milp.lower[unseen], milp.upper[unseen])
    return None if np.isnan(x).any() else x.tolist()


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and abs(number) < 1e20 else None


def main() -> None:
    """Answer requests until there are no more. What solvers print goes to the log of the request, or nowhere."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    import pyomo.environ  # noqa: F401 - registers Pyomo's solvers

    logging.getLogger("pyomo").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        request = json.loads(line)
        with Path(request["log"] or os.devnull).open("ab") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        try:
            answer = solve({**request, "log": bool(request["log"])})
        except Exception as error:
            # A plugin may raise anything.
            answer = {"error": " ".join(str(error).split()) or repr(error)}
        sys.stdout.flush()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
