"""Checks a folder of instances, without a solver or against one.

Without: digests and sizes of models, solutions in exact arithmetic, dual bounds against feasible points. Against a
solver: whether its answers contradict what is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablenet.core.errors import InputError
from stablenet.instances.manifest import Entry, model_path, text_digest
from stablenet.instances.regression import EXTERNAL, External
from stablenet.instances.solve import Request, solve_all
from stablenet.milp.arrays import MILP
from stablenet.milp.check_solution import FEASIBLE, check_solution, read_solution
from stablenet.milp.read_mps import read_mps

SLACK = 1e-4
"""By how much, relative above 1, a bound may fall short of a value before it contradicts it: solvers' default gap."""


@dataclass(frozen=True)
class Finding:
    """What a check says of an instance; ``wrong`` where it contradicts what is known, ``failed`` where none came."""

    name: str
    text: str
    wrong: bool = False
    failed: bool = False


def beats(value: float, bound: float, *, maximize: bool) -> bool:
    """Whether a feasible value is better than a dual bound by more than `SLACK` allows."""
    slack = SLACK * max(1.0, abs(value))
    return value > bound + slack if maximize else value < bound - slack


def check_entry(entry: Entry, folder: Path) -> Finding:
    """Check the files of one instance and what the manifest says of it; uses no solver."""
    path = model_path(folder, entry.name)
    if not path.is_file():
        return Finding(entry.name, "not built", failed=True)
    if text_digest(path) != entry.sha256:
        return Finding(entry.name, "the model is another than the manifest's: its digest differs", wrong=True)
    milp = read_mps(path)
    sizes = (milp.n_rows, milp.n_columns, milp.n_binaries, milp.n_nonzeros, milp.maximize)
    said = (entry.rows, entry.columns, entry.binaries, entry.nonzeros, entry.maximize)
    if sizes != said:
        return Finding(entry.name, f"rows, columns, binaries, nonzeros, sense are {sizes}, said are {said}", wrong=True)
    trouble = [*_solution(entry, folder, milp), *_bounds(entry)]
    if trouble:
        return Finding(entry.name, "; ".join(trouble), wrong=True)
    return Finding(entry.name, "right" if entry.solution else "right, without a solution")


def _solution(entry: Entry, folder: Path, milp: MILP) -> Iterator[str]:
    if entry.solution is None:
        return
    path = folder / entry.solution
    if not path.is_file():
        yield f"{entry.solution} is missing"
        return
    if text_digest(path) != entry.solution_sha256:
        yield "the solution's digest differs"
    found = check_solution(milp, read_solution(milp, path))
    if not found.feasible():
        yield f"the solution violates {found.where} by {found.violation:.3g}"
    if entry.primal is None or abs(found.objective - entry.primal) > 1e-9 * max(1.0, abs(found.objective)):
        yield f"the solution has the value {found.objective!r}, said is {entry.primal!r}"


def _bounds(entry: Entry) -> Iterator[str]:
    bounds = [("the dual bound", entry.dual)]
    bounds += [(f"the bound of {run['solver']}", run.get("dual_bound")) for run in entry.runs]
    for what, bound in bounds:
        if bound is not None and entry.primal is not None and beats(entry.primal, bound, maximize=entry.maximize):
            yield f"{what}, {bound!r}, excludes a point of value {entry.primal!r}"


def rebuilt(entry: Entry, networks: Path | None) -> Finding:
    """Build the model anew by its recipe, here, and compare digests."""
    import hashlib

    from stablenet.instances.library import make
    from stablenet.milp.mps import mps_chunks

    digest = hashlib.sha256()
    for chunk in mps_chunks(make(entry.name, networks).milp, name=entry.name):
        digest.update(chunk.encode("ascii"))
    same = digest.hexdigest() == entry.sha256
    return Finding(entry.name, "built anew: the same" if same else "built anew: another model", wrong=not same)


def check_answers(entries: Mapping[str, Entry], folder: Path, request: Request) -> Iterator[Finding]:
    """Solve each instance, each in a process of its own, and hold the answer against what is known."""
    request.check()
    for name, entry in entries.items():
        path = model_path(folder, name)
        if not path.is_file():
            yield Finding(name, "not built", failed=True)
            continue
        for row in solve_all([path], [request]):
            yield answer(name, row, entry.primal, entry.dual, maximize=entry.maximize)
    if any(entry.set == "regression" for entry in entries.values()):
        for one in EXTERNAL:
            yield _external(one, folder, request)


def answer(name: str, row: Mapping[str, Any], primal: float | None, dual: float | None, *, maximize: bool) -> Finding:
    """What a row of `stablenet.instances.solve` says, held against a feasible value and a bound (None: not known)."""
    status = row["status"]
    if row.get("error") or status == "error":
        return Finding(name, f"no answer: {row.get('error')}", failed=True)
    if primal is not None and (status == "infeasible" or (status == "unbounded" and dual is not None)):
        return Finding(name, f"says {status}, and a point of value {primal:.9g} is known", wrong=True)
    if str(row.get("checked", "")).startswith("violated"):
        text = f"its point violates {row.get('where')} by {row.get('violation'):.3g}, more than {FEASIBLE:g}"
        return Finding(name, text, wrong=True)
    bound, value = row.get("dual_bound"), row.get("objective")
    if primal is not None and bound is not None and beats(primal, bound, maximize=maximize):
        return Finding(name, f"{status}, bound {bound:.9g}, and a point of value {primal:.9g} is known", wrong=True)
    if primal is not None and status == "optimal" and value is not None and beats(primal, value, maximize=maximize):
        return Finding(name, f"optimal {value:.9g}, and a point of value {primal:.9g} is known", wrong=True)
    if dual is not None and value is not None and beats(value, dual, maximize=maximize):
        return Finding(name, f"a point of value {value:.9g}, beyond the bound {dual:.9g}", wrong=True)
    known = "agrees" if primal is not None or dual is not None else "nothing is known to compare with"
    said = "" if value is None else f", value {value:.9g}"
    return Finding(name, f"{status}{said}: {known}")


def _external(one: External, folder: Path, request: Request) -> Finding:
    """The same for a model that is not part of the library."""
    files = [folder / f"{one.name}{suffix}" for suffix in (".mps", ".mps.gz")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return Finding(one.name, f"not here; {one.address} has it, to be saved as {one.name}.mps")
    milp = read_mps(path)
    if (milp.n_rows, milp.n_columns, milp.n_nonzeros) != (one.rows, one.columns, one.nonzeros):
        raise InputError(f"{path}: {one.rows} rows, {one.columns} columns, {one.nonzeros} nonzeros are expected")
    primal, file = one.primal, folder / f"{one.name}.sol"
    if file.is_file():
        found = check_solution(milp, read_solution(milp, file))
        if not found.feasible():
            raise InputError(f"{file}: violates {found.where} by {found.violation:.3g}")
        primal = found.objective
    (row,) = solve_all([path], [request])
    return answer(one.name, row, primal, one.dual, maximize=milp.maximize)
