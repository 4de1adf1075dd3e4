"""SCIP's parameters: those that are set, those that are refused, and all there are with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from stablenet.backends.base import NativeOption, Settings, Value

_LIMIT = "limits, threads and the seed have options of their own"
RESERVED = {
    **dict.fromkeys(("limits/time", "limits/nodes", "limits/totalnodes", "limits/memory"), _LIMIT),
    **dict.fromkeys(("limits/primal", "limits/dual", "limits/objectivestop"), "searches set it"),
    **dict.fromkeys(("limits/gap", "limits/absgap"), "a model is solved to its end"),
    "randomization/randomseedshift": _LIMIT,
    "parallel/": _LIMIT,
    "numerics/": "see --margin",
    "exact/": "it alters models",
    "timing/": "one clock is used for all solvers",
    **dict.fromkeys(("misc/catchctrlc", "misc/allowstrongdualreds", "misc/allowweakdualreds"), "searches set it"),
}
"""Parameters that are not to be given."""


@cache
def native_options() -> Mapping[str, NativeOption]:
    """All parameters of the version that is installed, plugins included."""
    import pyscipopt

    return {name: NativeOption(value) for name, value in pyscipopt.Model().getParams().items()}


def native_settings(settings: Settings) -> dict[str, Value]:
    """What is set for these settings, by name; the log, limits and the seed apart."""
    if settings.defaults:
        return {}
    values: dict[str, Value] = {
        "numerics/feastol": min(settings.feasibility, settings.integrality),
        "numerics/dualfeastol": settings.feasibility,
        # Without a limit its root rounds go on for minutes on the models of networks, each gaining a millionth.
        "separating/maxroundsroot": 10,
        "limits/gap": 0.0,
        "limits/absgap": 0.0,
    }
    if not settings.presolve:
        values["presolving/maxrounds"] = 0
    return values
