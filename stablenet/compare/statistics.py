"""Statistics of a sweep. The instance is the unit; seeds are repetitions of it.

A *view* compares the values of one axis, or whole methods. Its cells are the problems on which all of its members
were run: an instance and the values of all other axes. Within a cell the median over seeds stands for the
repetitions, of an even number the mean of the two in the middle; a run that was not solved counts at its limit.
Measures: shifted geometric mean, PAR2 and PAR10, all of the same times; virtual best, performance profiles
(Dolan & Moré, *Benchmarking optimization software with performance profiles*, 2002), and for pairs the geometric mean
ratio with Student's interval by instance and Wilcoxon's signed-rank test (Demšar, *Statistical comparisons of
classifiers*, 2006), with Holm's correction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.compare.contradictions import method_name
from stablenet.compare.rows import FINISHED, METHOD
from stablenet.core.arrays import Array

Row = dict[str, Any]

METRICS = {
    "work_s": "network in memory to last verdict",
    "wall_s": "start to end of the process",
    "solver_s": "inside the solver, rounds of cuts at the root apart",
    "cpu_s": "processor time",
}
"""Times that can be compared, with what they cover."""

MANY = 12
"""With more members than this, pairs are those with the best one only."""

FLOOR = 1e-3
"""Seconds below which times are not told apart."""

FEWEST = 5
"""Instances below which no interval is given."""

CONFIDENCE = 0.95
CURVE_POINTS = 60


@dataclass(frozen=True)
class View:
    """Members by cells.

    ``time`` (members, cells) is `capped`, infinite where less than half of the seeds were solved; ``limit`` (cells,)
    the time limit; ``unit`` (cells,) the number of the cell's instance in ``instances``; ``runs[m][c]`` are the rows.
    ``dropped`` is how many cells were left out since not all members were run on them.
    """

    axis: str
    metric: str
    members: tuple[str, ...]
    cells: tuple[str, ...]
    instances: tuple[str, ...]
    unit: npt.NDArray[np.intp]
    time: Array
    limit: Array
    runs: tuple[tuple[tuple[Row, ...], ...], ...]
    wrong: frozenset[str]
    dropped: int

    def solved(self, row: Row) -> bool:
        """Whether a run counts as solved."""
        return row["outcome"] in FINISHED and row["key"] not in self.wrong

    @cached_property
    def capped(self) -> Array:
        """Times over seeds (see `middle`), runs not solved at their limit, (members, cells)."""
        return self.penalised(1.0)

    def penalised(self, factor: float) -> Array:
        """Times over seeds (see `middle`), runs not solved at ``factor`` times their limit, (members, cells)."""
        times = [[middle([self.seconds(row, factor) for row in cell]) for cell in cells] for cells in self.runs]
        return np.array(times, dtype=np.float64).reshape(len(self.members), len(self.cells))

    def seconds(self, row: Row, penalty: float = 1.0) -> float:
        """A run's time, at most its limit, or ``penalty`` times its limit where it was not solved."""
        if not self.solved(row):
            return penalty * float(row["time_limit"])
        return min(float(row["time_limit"]), max(FLOOR, float(row[self.metric] or 0.0)))


def make_view(rows: Sequence[Row], axis: str, *, metric: str = "work_s", wrong: frozenset[str] = frozenset()) -> View:
    """The view of an axis (one of `METHOD`) or of whole methods (``method``), named by the axes that vary."""
    groups: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    others = () if axis == "method" else tuple(name for name in METHOD if name != axis)
    naming = tuple(name for name in METHOD if len({row[name] for row in rows}) > 1)
    for row in rows:
        member = (method_name(row, naming) or method_name(row)) if axis == "method" else str(row[axis])
        if member != "-":
            cell = (str(row["instance"]), *(str(row[name]) for name in others))
            groups.setdefault(member, {}).setdefault(cell, []).append(row)
    groups = {name: groups[name] for name in sorted(groups)}
    every = list(dict.fromkeys(cell for cells in groups.values() for cell in cells))
    cells = [cell for cell in every if all(cell in group for group in groups.values())]
    instances = tuple(dict.fromkeys(cell[0] for cell in cells))
    runs = tuple(tuple(tuple(group[cell]) for cell in cells) for group in groups.values())
    limit = np.array([float(runs[0][c][0]["time_limit"]) for c in range(len(cells))] if runs else [])
    view = View(
        axis, metric, tuple(groups), tuple(_label(cell, cells) for cell in cells), instances,
        np.array([instances.index(cell[0]) for cell in cells], dtype=np.intp),
        np.zeros((len(groups), len(cells))), limit, runs, wrong, len(every) - len(cells),
    )  # fmt: skip
    shares = [[np.mean([view.solved(row) for row in cell]) for cell in member] for member in runs]
    share = np.array(shares, dtype=np.float64).reshape(len(groups), len(cells))
    view.time[...] = np.where(share >= 0.5, view.capped, np.inf)
    return view


def _label(cell: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> str:
    """A cell's name: its instance, and those axes on which the cells differ."""
    parts = [part for i, part in enumerate(cell) if i == 0 or len({other[i] for other in cells}) > 1]
    return ", ".join(part for part in parts if part != "-")


def middle(values: Sequence[float]) -> float:
    """The median; of an even number of values the mean of the two in the middle."""
    return float(np.median(values))


def shifted_geometric_mean(times: Array, shift: float) -> float:
    """``exp(mean(log(t + shift))) - shift``; NaN for no times."""
    return float(np.exp(np.mean(np.log(times + shift))) - shift) if len(times) else float("nan")


def summary(view: View) -> list[dict[str, Any]]:
    """One entry for each member, and the virtual best, which takes on each cell the fastest member."""
    best = view.capped.min(axis=0, initial=np.inf)
    share = best_shares(view)
    table = [{**_measures(view, m), "share": float(share[m])} for m in range(len(view.members))]
    if len(view.members) > 1 and len(view.cells):
        finite = np.isfinite(view.time).any(axis=0)
        table.append(
            {
                "member": "virtual best", "cells": len(view.cells), "runs": None, "solved": int(finite.sum()),
                "sgm10": shifted_geometric_mean(best, 10.0), "sgm1": shifted_geometric_mean(best, 1.0),
                **{f"par{factor}": float(view.penalised(factor).min(axis=0).mean()) for factor in (2, 10)},
                "share": 1.0,
            }
        )  # fmt: skip
    return table


def _measures(view: View, member: int) -> dict[str, Any]:
    rows = [row for cell in view.runs[member] for row in cell]
    outcomes: dict[str, int] = {}
    for row in rows:
        name = "wrong" if row["key"] in view.wrong else row["outcome"]
        outcomes[name] = outcomes.get(name, 0) + 1
    finished = [row for row in rows if view.solved(row)]
    timed_out = [row for row in rows if row["outcome"] == "time"]

    def average(of: Sequence[Row], key: str, how: Callable[[Any], Any] = np.mean) -> float | None:
        values = [row[key] for row in of if row.get(key) is not None]
        return float(how(values)) if values else None

    def penalised(factor: int) -> float | None:
        return float(view.penalised(factor)[member].mean()) if len(view.cells) else None

    return {
        "member": view.members[member], "cells": len(view.cells), "runs": len(rows), "solved": len(finished),
        "outcomes": outcomes, "sgm10": shifted_geometric_mean(view.capped[member], 10.0),
        "sgm1": shifted_geometric_mean(view.capped[member], 1.0), "par2": penalised(2), "par10": penalised(10),
        "tightening": average(rows, "bounds_s"), "build": average(rows, "build_s"),
        "translate": average(rows, "translate_s"), "cuts": average(rows, "cuts_s"),
        "solver": average(rows, "solver_s"), "cpu": average(rows, "cpu_s"),
        "rows": average(rows, "rows"), "binaries": average(rows, "binaries"),
        "nodes": average(finished, "nodes", np.median),
        "bound": average(timed_out, "final_bound"), "peak_mb": average(rows, "peak_mb", np.max),
        "closed": closed_share(rows),
    }  # fmt: skip


def closed_share(rows: Sequence[Row]) -> float | None:
    """Mean share of the questions pending at the start that the runs closed, each from 0 to 1."""
    shares = [
        min(1.0, max(0.0, 1.0 - row["pending_end"] / row["pending_start"]))
        for row in rows
        if row.get("pending_start") and row.get("pending_end") is not None
    ]
    return float(np.mean(shares)) if shares else None


def best_shares(view: View) -> Array:
    """Share of the cells on which each member is the virtual best, within 1 %; ties are split.

    A cell that no member solved counts for none.
    """
    if not view.time.size:
        return np.zeros(len(view.members))
    best = view.time.min(axis=0)
    tie = np.isfinite(best) & (view.time <= 1.01 * best)
    return np.asarray((tie / np.maximum(tie.sum(axis=0), 1)).sum(axis=1) / len(view.cells))


def profile(view: View) -> dict[str, list[list[float]]]:
    """Performance profiles: for each member the steps ``[ratio to the best, share of cells]``."""
    if not view.time.size:
        return {}
    best = view.time.min(axis=0)
    curves = {}
    for member, times in zip(view.members, view.time, strict=True):
        solved = np.isfinite(times)
        curves[member] = _steps(times[solved] / best[solved], len(view.cells))
    return curves


def cactus(view: View) -> dict[str, list[list[float]]]:
    """For each member the steps ``[seconds, share of cells solved within them]``."""
    return {
        member: _steps(times[np.isfinite(times)], len(view.cells))
        for member, times in zip(view.members, view.time, strict=True)
    }


def _steps(values: Array, total: int) -> list[list[float]]:
    ordered = np.sort(values)
    points = {float(value): (i + 1) / total for i, value in enumerate(ordered)}
    return [[value, share] for value, share in points.items()]


def anytime(view: View) -> dict[str, list[list[float]]]:
    """For each member ``[seconds, mean share of the pending questions that are closed]``, instances weighing alike.

    A wrong run closes none.
    """
    grid, table = curve_table(view)
    return {
        member: [[float(t), float(share)] for t, share in zip(grid, curves.mean(axis=0), strict=True)]
        for member, curves in zip(view.members, table, strict=True)
        if len(view.cells)
    }


def curve_table(view: View) -> tuple[Array, Array]:
    """Times (points,) and mean shares closed of each member on each instance, (members, instances, points)."""
    grid = np.geomspace(0.01, float(view.limit.max(initial=1.0)), CURVE_POINTS)
    table = np.zeros((len(view.members), len(view.instances), CURVE_POINTS))
    for m, cells in enumerate(view.runs):
        per_cell = [np.mean([run_curve(row, grid, view.wrong) for row in cell], axis=0) for cell in cells]
        for i in range(len(view.instances)):
            table[m, i] = np.mean([per_cell[c] for c in np.flatnonzero(view.unit == i)], axis=0)
    return grid, table


def run_curve(row: Row, grid: Array, wrong: frozenset[str] | Mapping[str, str] = frozenset()) -> Array:
    """Share of a run's pending questions that are closed at the times of ``grid``."""
    if row.get("pending_start") == 0:
        return np.ones(len(grid))
    curve = json.loads(row["curve"]) if row.get("curve") else []
    if not curve or not row.get("pending_start") or row["key"] in wrong:
        return np.zeros(len(grid))
    times, left = np.array(curve, dtype=np.float64).T
    position = np.searchsorted(times, grid, side="right") - 1
    still = np.where(position >= 0, left[np.maximum(position, 0)], row["pending_start"])
    return np.asarray(np.clip(1.0 - still / row["pending_start"], 0.0, 1.0))


def pairs(view: View) -> list[dict[str, Any]]:
    """Each two members compared, instance by instance; of more than `MANY`, each with the one of the least mean (1 s).

    ``ratio`` is the geometric mean of time of ``a`` over time of ``b``, instances weighing alike, with Student's
    interval of the logarithms by instance (`interval`); runs that were not solved count at their limit, and
    ``bound`` says what that makes of the
    ratio: ``>=`` if only ``a`` has such, ``<=`` if only ``b``, ``~`` if both. ``p`` is Wilcoxon's on the instances,
    ``p_holm`` corrected for the number of pairs.
    """
    result: list[dict[str, Any]] = []
    for a, b in _which(view):
        logs = np.log(view.capped[a]) - np.log(view.capped[b])
        per_instance = np.array([logs[view.unit == i].mean() for i in range(len(view.instances))])
        if not len(per_instance):
            continue
        open_a, open_b = (not bool(np.isfinite(view.time[m]).all()) for m in (a, b))
        low, high = interval(per_instance)
        faster = np.sign(np.round(per_instance, 9))
        result.append(
            {
                "a": view.members[a], "b": view.members[b], "instances": len(per_instance),
                "ratio": float(np.exp(per_instance.mean())), "low": _exp(low), "high": _exp(high),
                "bound": {(True, False): ">=", (False, True): "<=", (True, True): "~"}.get((open_a, open_b), ""),
                "a_faster": int((faster < 0).sum()), "b_faster": int((faster > 0).sum()), "p": wilcoxon(per_instance),
            }
        )  # fmt: skip
    for entry, corrected in zip(result, holm([entry["p"] for entry in result]), strict=True):
        entry["p_holm"] = corrected
    return result


def _which(view: View) -> list[tuple[int, int]]:
    every = range(len(view.members))
    if len(every) <= MANY or not len(view.cells):
        return list(combinations(every, 2))
    best = min(every, key=lambda m: shifted_geometric_mean(view.capped[m], 1.0))
    return [(best, m) for m in every if m != best]


def interval(values: Array) -> tuple[float | None, float | None]:
    """Student's interval of the mean of values, one for each instance; none for fewer than `FEWEST`.

    A percentile bootstrap would be too narrow for few instances; a test simulates the coverage of both.
    """
    from scipy import stats

    if len(values) < FEWEST:
        return None, None
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def _exp(value: float | None) -> float | None:
    return None if value is None else float(np.exp(value))


def wilcoxon(differences: Array) -> float:
    """Two-sided p of the signed-rank test; 1 where all differences are 0."""
    from scipy import stats

    rounded = np.round(differences, 9)
    if not rounded.any():
        return 1.0
    return float(stats.wilcoxon(rounded, zero_method="zsplit").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, in their order."""
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[int(index)]))
        corrected[int(index)] = highest
    return corrected


def axes_that_vary(rows: Sequence[Row]) -> list[str]:
    """``method`` and each axis with several values."""
    return ["method", *(axis for axis in METHOD if len({row[axis] for row in rows} - {"-"}) > 1)]
