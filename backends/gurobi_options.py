"""Gurobi's parameters: those that are set, those that are refused, and all there are with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from stablenet.backends.base import NativeOption, Settings, Value
from stablenet.backends.gurobi_licence import environment

_LIMIT = "limits, threads and the seed have options of their own"
RESERVED = {
    **dict.fromkeys(("TimeLimit", "WorkLimit", "NodeLimit", "MemLimit", "SoftMemLimit", "Threads", "Seed"), _LIMIT),
    **dict.fromkeys(("FeasibilityTol", "OptimalityTol", "IntFeasTol", "MarkowitzTol"), "see --margin"),
    **dict.fromkeys(("BestObjStop", "BestBdStop", "Cutoff", "LazyConstraints", "PreCrush"), "searches set it"),
    **dict.fromkeys(("MIPGap", "MIPGapAbs"), "a model is solved to its end"),
    **dict.fromkeys(("LogFile", "LogToConsole", "OutputFlag", "ResultFile"), "see --solver-log"),
}
"""Parameters that are not to be given."""


@cache
def native_options(api: Any) -> Mapping[str, NativeOption]:
    """All parameters of the version that is installed; ``api`` is the module gurobipy."""
    found: dict[str, NativeOption] = {}
    with environment(api) as env, api.Model(env=env) as model:
        for name in dir(api.GRB.Param):
            if name.startswith("_"):
                continue
            try:
                found[name] = NativeOption(model.getParamInfo(name)[-1])
            except api.GurobiError:  # of a remote service alone
                continue
    return found


def native_settings(settings: Settings) -> dict[str, Value]:
    """What is set for these settings, by name; the log, limits, threads and the seed apart."""
    if settings.defaults:
        return {}
    values: dict[str, Value] = {
        "FeasibilityTol": settings.feasibility,
        "OptimalityTol": settings.feasibility,
        "IntFeasTol": settings.integrality,
        "MIPGap": 0.0,
        "MIPGapAbs": 0.0,
    }
    if not settings.presolve:
        values["Presolve"] = 0
    return values
