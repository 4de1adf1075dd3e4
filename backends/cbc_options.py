"""CBC's parameters: those that are set, those that are refused, and all there are with their defaults."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import cache

from stablenet.backends.base import NativeOption, Settings, Value

from stablenet.core.errors import SolverError

_LIMIT = "limits, threads and the seed have options of their own"
RESERVED = {
    **dict.fromkeys(("seconds", "secnifs", "maxNodes", "maxNNIFS", "threads", "randomSeed", "randomCbcSeed"), _LIMIT),
    **dict.fromkeys(("primalTolerance", "dualTolerance", "integerTolerance", "zeroTolerance"), "see --margin"),
    **dict.fromkeys(("ratioGap", "allowableGap", "increment"), "its bound is its value: no gap may be between them"),
    **dict.fromkeys(("cutoff", "direction", "maxSolutions", "timeMode", "constraintFromCutoff"), "searches set it"),
    **dict.fromkeys(("printingOptions", "outputFormat", "logLevel", "messages", "errorsAllowed"), "output is read"),
    "allCommands": "it only prints",
}
"""Parameters that are not to be given."""

_KINDS = {"integer": int, "double": float, "keyword": str}


@cache
def native_options(program: str) -> Mapping[str, NativeOption]:
    """All parameters with a value, of the program at a path, as it dumps them itself."""
    done = subprocess.run(
        [program, "-dumpParameters", "-quit"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip
    begin, end = done.stdout.find("["), done.stdout.rfind("]")
    try:
        entries = json.loads(done.stdout[begin : end + 1])
    except ValueError:
        raise SolverError(f"{program}: this version of CBC does not list its parameters (-dumpParameters)") from None
    found: dict[str, NativeOption] = {}
    for entry in entries:
        kind = _KINDS.get(entry["type"])
        if kind is not None and "defaultValue" in entry:
            choices = tuple(word.replace("!", "") for word in entry.get("keywords", ()))
            default = entry["defaultValue"]
            # A keyword's shortest form is marked: auto(matic).
            plain = default.replace("(", "").replace(")", "") if kind is str else kind(default)
            found.setdefault(entry["name"], NativeOption(plain, choices))
    return found


def native_settings(settings: Settings, *, bounded: bool) -> dict[str, Value]:
    """What is set for these settings, by name; limits, threads and the seed apart.

    ``bounded`` says whether all columns of the model are.
    """
    if settings.defaults:
        return {}
    values: dict[str, Value] = {
        "ratioGap": 0.0,
        "allowableGap": 0.0,
        "increment": 0.0,
        "primalTolerance": settings.feasibility,
        "dualTolerance": settings.feasibility,
        "integerTolerance": settings.integrality,
        # Its scaling loses the tolerances: points come back whose columns with small coefficients break their bounds.
        "scaling": "off",
    }
    # CBC's integer preprocessing is wrong: with tolerances of 1e-9 it proves false optima of small big-M models, and
    # calls models with SOS sets infeasible. Without it CBC calls unbounded models optimal, so it stays on where a
    # model can be unbounded.
    if bounded or not settings.presolve:
        values["preprocess"] = "off"
    if not settings.presolve:
        values["presolve"] = "off"
    return values
