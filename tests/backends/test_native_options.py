"""Solvers' own options: names and values checked, values reach the solver, and what differs from defaults is told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from stablenet.backends.base import Backend, Capability, Limits, Settings, Status, registry
from stablenet.backends.native_options import UnknownOptionError, changed_options, parse_options

from stablenet.core.errors import InputError, UnsupportedError
from stablenet.milp.arrays import MILP, Rows

LIMITS = Limits(time=20.0)

KNOWN = {  # an option, another than its default, a misspelling that has it among the near ones, and one that is refused
    "highs": ("mip_heuristic_effort", "0.25", "mip_heuristics_effort", "mip_feasibility_tolerance"),
    "scip": ("separating/maxrounds", "3", "maxrounds", "numerics/feastol"),
    "cbc": ("cutsOnOff", "off", "cutsonof", "increment"),
    "gurobi": ("Cuts", "2", "Cutz", "IntFeasTol"),
}


def installed(name: str) -> Backend:
    backend = registry.get(name)
    if not backend.available().installed:
        pytest.skip(f"{name} is not installed")
    return backend


def knapsack(seed: int = 0, n: int = 14) -> MILP:
    rng = np.random.default_rng(seed)
    weights = rng.integers(5, 60, size=(3, n)).astype(float)
    return MILP(
        Rows(sparse.csr_array(weights), np.full(3, -np.inf), weights.sum(axis=1) / 2),
        np.zeros(n), np.ones(n), np.ones(n, dtype=bool), rng.integers(5, 60, size=n).astype(float), maximize=True,
    )  # fmt: skip


def best(milp: MILP) -> float:
    """The optimum of a small pure binary MILP by enumeration."""
    points = (np.arange(2**milp.n_columns)[:, None] >> np.arange(milp.n_columns)) & 1
    return float((points @ milp.objective)[milp.violations(points.astype(float)) <= 1e-9].max())


@pytest.mark.parametrize("name", KNOWN)
def test_names_and_values_are_checked(name):
    backend = installed(name)
    option, value, wrong, refused = KNOWN[name]
    found = parse_options(backend, [f"{option}={value}"])
    assert str(found[option]) == value
    with pytest.raises(UnknownOptionError, match=re.escape(option)):
        parse_options(backend, [f"{wrong}={value}"])
    with pytest.raises(InputError, match="is not to be given"):
        parse_options(backend, [f"{refused}=1"])
    with pytest.raises(InputError, match="expected"):
        parse_options(backend, [f"{option}=some/thing"])
    with pytest.raises(InputError, match="twice"):
        parse_options(backend, [f"{option}={value}"] * 2)
    with pytest.raises(InputError, match="NAME=VALUE"):
        parse_options(backend, [option])


def test_a_solver_without_named_options_refuses_them():
    backend = registry.get("pyomo:highs")
    assert not backend.supports(Capability.OPTIONS)
    with pytest.raises(UnsupportedError, match="options by native name"):
        parse_options(backend, ["a=b"])


@pytest.mark.parametrize("name", KNOWN)
def test_every_option_that_is_set_exists_and_plain_sets_none(name):
    backend = installed(name)
    known = backend.native_options()
    for settings in (Settings(), Settings(submips=False), Settings(presolve=False)):
        given = backend.native_settings(settings)
        assert given
        assert given.keys() <= known.keys()
    assert backend.native_settings(Settings(defaults=True)) == {}
    assert changed_options(backend, Settings(defaults=True)) == {}
    option, value, *_ = KNOWN[name]
    mine = tuple(parse_options(backend, [f"{option}={value}"]).items())
    assert list(changed_options(backend, Settings(defaults=True, options=mine))) == [option]
    changed = changed_options(backend, Settings(feasibility=1e-8, integrality=1e-8))
    assert changed
    assert all(value != default for value, default in changed.values())


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("defaults", [True, False])
def test_answers_with_options_are_those_of_enumeration(name, defaults):
    backend = installed(name)
    option, value, *_ = KNOWN[name]
    mine = tuple(parse_options(backend, [f"{option}={value}"]).items())
    for seed in range(3):
        milp = knapsack(seed)
        with backend.open(milp, Settings(defaults=defaults, options=mine)) as session:
            result = session.solve(LIMITS)
        assert result.status is Status.OPTIMAL
        truth = best(milp)
        assert result.objective == pytest.approx(truth, abs=1e-4 * truth)
        assert truth - 1e-6 <= result.dual_bound <= truth * (1 + 5e-4) + 1e-6


def test_highs_holds_what_it_was_given():
    backend = installed("highs")
    for defaults in (True, False):
        settings = Settings(defaults=defaults, submips=False, options=(("mip_heuristic_effort", 0.25),))
        with backend.open(knapsack(), settings) as session:
            options = session._highs.getOptions()
            assert options.mip_heuristic_effort == 0.25
            assert options.mip_heuristic_run_rins is defaults
            assert options.mip_rel_gap == (1e-4 if defaults else 0.0)


def test_scip_holds_what_it_was_given():
    backend = installed("scip")
    fresh = backend.native_options()
    for defaults in (True, False):
        settings = Settings(defaults=defaults, options=(("separating/maxrounds", 3),))
        with backend.open(knapsack(), settings) as session:
            held = session._main.model.getParams()
        apart = {name for name, option in fresh.items() if held[name] != option.default}
        expected = {"separating/maxrounds", "misc/catchctrlc", "timing/clocktype", "display/verblevel"}
        assert apart - {"visual/dispsols"} <= expected | set(backend.native_settings(settings))


def test_cbc_is_given_nothing_else_by_default(tmp_path: Path):
    backend = installed("cbc")
    log = tmp_path / "log"
    with backend.open(knapsack(), Settings(defaults=True, log=log)) as session:
        session.solve(LIMITS)
    line = next(line for line in log.read_text().splitlines() if "args:" in line)
    words = {word for word in line.split() if word.startswith("-")}
    assert words == {
        "-timeMode", "-randomCbcSeed", "-randomSeed", "-sec", "-printingOptions", "-solve", "-solution",
    }  # fmt: skip
