"""What single rows of a sweep tell beside their times: the integral of their curve, waiting, and what was not run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from stablenet.compare.rows import METHOD

Row = dict[str, Any]

FEWEST_CPU = 0.8
"""Share of its time that a run must have had a processor not to be marked."""

LONG_ENOUGH = 1.0
"""Seconds from which that share is asked for; a shorter run is mostly the start of a process."""


def open_integral(row: Row) -> float | None:
    """Seconds up to the limit weighed by the share of the pending questions that is open then.

    The primal and the dual integral (Berthold, *Measuring the impact of primal heuristics*, 2013) in one: a witness is
    a primal success and a refutation a dual one, and the curve of a run counts both. 0 for a run that has nothing to
    close; the limit for one that closes nothing; None where a run has no curve.
    """
    limit = float(row["time_limit"])
    if row.get("pending_start") == 0:
        return 0.0
    curve = json.loads(row["curve"]) if row.get("curve") else []
    if not curve or not row.get("pending_start"):
        return None
    times, left = np.array(curve, dtype=np.float64).T
    edges = np.clip(np.concatenate([[0.0], times, [limit]]), 0.0, limit)
    shares = np.clip(np.concatenate([[row["pending_start"]], left]) / row["pending_start"], 0.0, 1.0)
    return float(np.maximum(np.diff(edges), 0.0) @ shares)


def waited(row: Row) -> bool:
    """Whether a run had a processor for less than `FEWEST_CPU` of its time, which then says more of the machine."""
    wall, cpu = row.get("wall_s"), row.get("cpu_s")
    return bool(wall and wall >= LONG_ENOUGH and cpu is not None and cpu < FEWEST_CPU * wall)


def gaps(rows: Sequence[Row]) -> list[str]:
    """Values of two axes that no run has together, though both occur: what the grid could not or did not run."""
    found = []
    for a, b in combinations(METHOD, 2):
        pairs_run = {(str(row[a]), str(row[b])) for row in rows}
        first, second = (sorted({pair[i] for pair in pairs_run} - {"-"}) for i in (0, 1))
        for value in first:
            lacking = [other for other in second if (value, other) not in pairs_run]
            if lacking and (value, "-") not in pairs_run:
                found.append(f"{a} {value} with {b} {', '.join(lacking)}")
    return found
