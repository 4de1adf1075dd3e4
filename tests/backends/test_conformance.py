"""Every backend of the package passes the suite that authors of others run."""

import pytest
from stablenet.backends.base import registry

from stablenet.core.errors import UnknownNameError
from stablenet.testing.backends import backend_cases, check_backend, run_case

CASES = {case.name: case for case in backend_cases()}
NATIVE = ("highs", "scip", "cbc", "gurobi")
# The rest of the suite is the same code with other solvers; starting Pyomo's process takes a second.
THROUGH_PYOMO = {
    "pyomo:appsi_highs": ("feasible", "infeasible", "unbounded", "changed_bounds", "interrupt", "silence"),
    "pyomo:scip_direct": ("sos1", "time_limit"),
}
UNSUPPORTED = {
    "highs": {"sos1", "indicators", "memory_limit", "cuts", "lazy_rows"},
    "scip": {"threads"},
    "cbc": {
        "memory_limit",
        "target",
        "root_bound",
        "incumbents",
        "stop_by_incumbent",
        "proposals",
        "cuts",
        "lazy_rows",
        "exceptions",
    },
    "gurobi": set(),
}


def _pairs(cases):
    return [
        pytest.param(name, case, id=f"{name}-{case}", marks=pytest.mark.backend(name))
        for name, some in cases.items()
        for case in some
    ]


@pytest.mark.parametrize(("name", "case"), _pairs(dict.fromkeys(NATIVE, CASES)))
def test_native(name, case):
    applies = run_case(CASES[case], registry.get(name))
    # What does not apply is known: nothing drops out of the suite unnoticed.
    assert applies == (case not in UNSUPPORTED[name])


@pytest.mark.parametrize(("name", "case"), _pairs(THROUGH_PYOMO))
def test_through_pyomo(name, case):
    assert run_case(CASES[case], registry.get(name))


def test_unknown_exclusion_is_refused():
    with pytest.raises(UnknownNameError, match="feasible"):
        check_backend(registry.get("highs"), exclude=["no such case"])
