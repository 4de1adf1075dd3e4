"""HiGHS's options: those that are set, those that are refused, and all there are with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from stablenet.backends.base import NativeOption, Settings, Value
from stablenet.backends.highs_banner import no_banner

SMALLEST_COEFFICIENT = 1e-12
"""HiGHS deletes coefficients up to ``small_matrix_value``; this is the least that it accepts for it."""

_SUBMIPS = ("mip_heuristic_run_rins", "mip_heuristic_run_rens", "mip_heuristic_run_root_reduced_cost")

_LIMIT, _MARGIN = "limits, threads and the seed have options of their own", "see --margin"
RESERVED = {
    **dict.fromkeys(("time_limit", "threads", "random_seed", "mip_max_nodes", "mip_max_leaves"), _LIMIT),
    **dict.fromkeys(
        ("primal_feasibility_tolerance", "dual_feasibility_tolerance", "mip_feasibility_tolerance"), _MARGIN
    ),
    **dict.fromkeys(
        ("small_matrix_value", "large_matrix_value", "infinite_cost", "infinite_bound"), "it alters models"
    ),
    **dict.fromkeys(("objective_bound", "objective_target", "solve_relaxation"), "searches set it"),
    **dict.fromkeys(("mip_rel_gap", "mip_abs_gap"), "a model is solved to its end"),
    **dict.fromkeys(("output_flag", "log_to_console", "log_file"), "see --solver-log"),
}
"""Options that are not to be given."""


@cache
def native_options() -> Mapping[str, NativeOption]:
    """All options of the version that is installed."""
    import highspy

    with no_banner():
        fresh: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    kinds = {"kBool": bool, "kInt": int, "kDouble": float, "kString": str}
    found: dict[str, NativeOption] = {}
    for name in dir(fresh.getOptions()):
        if name.startswith("_"):
            continue
        (status, kind), (_, value) = fresh.getOptionType(name), fresh.getOptionValue(name)
        if status == highspy.HighsStatus.kOk:
            found[name] = NativeOption(kinds[kind.name](value))
    return found


def native_settings(settings: Settings) -> dict[str, Value]:
    """What is set for these settings, by name; the log, limits, threads and the seed apart."""
    if settings.defaults:
        return {}
    values: dict[str, Value] = {
        "primal_feasibility_tolerance": settings.feasibility,
        "dual_feasibility_tolerance": settings.feasibility,
        "mip_feasibility_tolerance": settings.integrality,
        "mip_rel_gap": 0.0,
        "mip_abs_gap": 0.0,
        "presolve": "on" if settings.presolve else "off",
        "small_matrix_value": SMALLEST_COEFFICIENT,
    }
    if not settings.submips:
        # No RINS, RENS and the like, which take most of the time where a question is to be refuted.
        some = [name for name in _SUBMIPS if name in native_options()]
        # Versions without these options have one that limits the effort.
        values |= dict.fromkeys(some, False) if len(some) == len(_SUBMIPS) else {"mip_heuristic_effort": 0.0}
    return values
