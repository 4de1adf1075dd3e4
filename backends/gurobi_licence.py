"""Gurobi's licence: where one would come from, what the pip package's allows, and how large a loaded model is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import LicenseError, SolverError
from stablenet.milp.arrays import MILP, Rows

MAX_COLUMNS = 2000
MAX_ROWS = 2000
"""What the licence of the pip package allows; constraints of all kinds count as rows."""

TOO_LARGE = 10010
NO_LICENCE = 10009
"""Gurobi's error numbers."""


def licence_file() -> str | None:
    """Where a licence other than the pip package's would come from."""
    if "GRB_WLSACCESSID" in os.environ:
        return "of the web licence service"
    named = os.environ.get("GRB_LICENSE_FILE")
    places = [Path(named)] if named else [Path.home() / "gurobi.lic", Path("/opt/gurobi/gurobi.lic")]
    return next((str(place) for place in places if place.is_file()), None)


def size(milp: MILP) -> tuple[int, int]:
    """Columns and constraints of all kinds that the model has once it is loaded."""
    columns = milp.n_columns + len(two_sided(milp.rows))
    rows = milp.n_rows + len(milp.sos1)
    if milp.indicators is not None:
        sides = milp.indicators.rows
        rows += int(np.isfinite(sides.lower).sum() + np.isfinite(sides.upper).sum())
    return columns, rows


def check_size(api: Any, milp: MILP) -> None:
    """Raise `LicenseError` if the model is larger than the licence allows."""
    columns, rows = size(milp)
    if (columns > MAX_COLUMNS or rows > MAX_ROWS) and _is_limited(api):
        raise LicenseError(
            f"Gurobi: the model has {columns} columns and {rows} constraints; the size-limited licence of the pip "
            f"package allows {MAX_COLUMNS} of each. Use another solver, decide more neurons by bounds first, or "
            "install a full licence (GRB_LICENSE_FILE)"
        )


def _is_limited(api: Any) -> bool:
    """Whether the licence is limited in size: the answer to a model that is just too large for it."""
    with environment(api) as env, api.Model(env=env) as model:
        model.addMVar(MAX_COLUMNS + 1)
        try:
            model.optimize()
        except api.GurobiError as error:
            if error.errno == TOO_LARGE:
                return True
            raise SolverError(f"Gurobi failed: {error}") from error
        return False


def environment(api: Any) -> Any:
    """A silent environment; raises `LicenseError` where Gurobi finds no valid licence."""
    try:
        return api.Env(params={"OutputFlag": 0})
    except api.GurobiError as error:
        if error.errno == NO_LICENCE:
            raise LicenseError(f"Gurobi: {error}") from error
        raise SolverError(f"Gurobi failed: {error}") from error


def two_sided(rows: Rows) -> npt.NDArray[np.intp]:
    """The rows with two different finite sides."""
    return np.flatnonzero(np.isfinite(rows.lower) & np.isfinite(rows.upper) & (rows.lower < rows.upper))
