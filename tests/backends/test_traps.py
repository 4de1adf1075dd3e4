"""What solvers are known to get wrong, each shown not to reach the caller (docs/solvers.md)."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stablenet.backends.base import Callbacks, Limits, Settings, Status, registry

from stablenet.core.errors import (
    InputError,
    LicenseError,
    NotInstalledError,
    SolverError,
    UnknownNameError,
    UnsupportedError,
)
from stablenet.testing import models
from stablenet.testing.suite import slowness

NATIVE = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("highs", "scip", "cbc", "gurobi")]


def fresh(code):
    """Run code in a new interpreter; what it printed, on both streams."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_importing_the_package_imports_no_solver():
    code = """
import sys, stablenet
from stablenet.backends.base import registry
registry.names()
print([name for name in ("highspy", "pyscipopt", "gurobipy", "cbcbox") if name in sys.modules])
"""
    assert fresh(code).strip() == "[]"


@pytest.mark.parametrize("name", NATIVE)
def test_first_solve_of_a_process_prints_nothing(name):
    # HiGHS prints a banner once per process, which a test within a process would miss.
    code = f"""
from stablenet.backends.base import Limits, registry
from stablenet.testing import models
with registry.get({name!r}).open(models.knapsack(1)) as session:
    session.solve(Limits())
"""
    assert fresh(code) == ""


@pytest.mark.parametrize("name", NATIVE)
def test_ctrl_c_ends_a_process_at_once(name):
    code = f"""
from stablenet.backends.base import Limits, registry
from stablenet.testing import models
with registry.get({name!r}).open(models.hard().milp) as session:
    print("ready", flush=True)
    try:
        session.solve(Limits(time=600))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.4 * slowness())
        process.send_signal(2)
        began = time.monotonic()
        said, _ = process.communicate(timeout=120 * slowness())
        assert said == "interrupted\n"
        assert process.returncode == 0
        assert time.monotonic() - began < 10 * slowness()
    finally:
        process.kill()
        process.wait()


def test_highs_1_14_is_excluded():
    from importlib.metadata import requires

    assert any("highspy" in line and "!=1.14.0" in line for line in requires("stablenet"))


@pytest.mark.parametrize("name", NATIVE)
def test_options_that_a_solver_refuses_are_errors(name):
    # HiGHS says so by a status only, CBC by a line of its log, and both go on with the default.
    settings = Settings(feasibility=1e-25, integrality=1e-25)
    with (
        pytest.raises(SolverError, match=r"refuse|did not take"),
        registry.get(name).open(models.knapsack(1), settings) as session,
    ):
        session.solve(Limits())


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("presolve", [True, False])
def test_presolve_on_and_off(name, presolve):
    milp = models.knapsack(5)
    with registry.get(name).open(milp, Settings(presolve=presolve)) as session:
        assert session.solve(Limits()).objective == pytest.approx(models.enumerate_optimum(milp))


@pytest.mark.parametrize("name", NATIVE)
def test_coefficients_up_to_1e_9_are_refused_and_larger_ones_kept(name):
    good = models.knapsack(6)
    for size, accepted in ((1e-9, False), (-3e-10, False), (2e-9, True), (0.0, True)):
        rows = models.rows([[size, 1.0, 0, 0, 0, 0, 0]], -1.0, 5.0)
        if accepted:
            with registry.get(name).open(replace(good, rows=rows)) as session:
                assert session.solve(Limits()).status is Status.OPTIMAL
                session.add_rows(rows)
                assert session.solve(Limits()).status is Status.OPTIMAL
        else:
            with pytest.raises(InputError, match="too small for solvers"):
                registry.get(name).open(replace(good, rows=rows))
            with registry.get(name).open(good) as session, pytest.raises(InputError, match="added row"):
                session.add_rows(rows)


@pytest.mark.backend("cbc")
def test_printed_bounds_of_cbc_are_loosened_by_what_printing_rounds_off():
    hard = models.hard()
    with registry.get("cbc").open(hard.milp, Settings()) as session:
        result = session.solve(Limits(time=600, nodes=1))
        log = Path(session._folder.name, "log.txt").read_text()
        printed = next(line for line in log.splitlines() if line.startswith("Lower bound:"))
    assert result.dual_bound > -float(printed.split()[-1])
    assert result.dual_bound < -float(printed.split()[-1]) * (1 + 1e-4)


@pytest.mark.backend("cbc")
def test_cbc_program_that_fails_is_an_error(monkeypatch, tmp_path):
    for body, complaint in (
        ("exit 3", "code 3"),
        ("exit 0", "no output"),
        ("for a; do last=$a; done; echo 'Mystery - objective value 1' > $last", "status 'Mystery'"),
        ("for a; do last=$a; done; printf 'Optimal - objective value 1\\n 0 c0 1 0\\n' > $last", "1 of 7 columns"),
        ("for a; do last=$a; done; printf 'Optimal - objective value 1\\nhello\\n' > $last", "not understood"),
        ("echo '1 parse warning(s)'; exit 0", "did not take"),
    ):
        fake = tmp_path / "cbc"
        fake.write_text(f"#!/bin/sh\n{body}\n")
        fake.chmod(0o755)
        monkeypatch.setattr("stablenet.backends.cbc.program", lambda fake=fake: str(fake))
        with registry.get("cbc").open(models.knapsack(1)) as session, pytest.raises(SolverError, match=complaint):
            session.solve(Limits())


@pytest.mark.backend("cbc")
def test_cbc_program_that_hangs_is_killed(monkeypatch, tmp_path):
    fake = tmp_path / "cbc"
    fake.write_text("#!/bin/sh\ntrap '' INT\nwhile true; do sleep 0.1; done\n")
    fake.chmod(0o755)
    monkeypatch.setattr("stablenet.backends.cbc.program", lambda: str(fake))
    monkeypatch.setattr("stablenet.backends.cbc.OVERRUN", 0.3)
    with registry.get("cbc").open(models.knapsack(1)) as session:
        result = session.solve(Limits(time=0.1))
    assert result.status is Status.TIME
    assert result.x is None
    assert result.dual_bound == np.inf


def test_without_cbc_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setattr("stablenet.backends.cbc.program", lambda: None)
    assert not registry.get("cbc").available().installed
    with pytest.raises(NotInstalledError, match="stablenet\\[cbc\\]"):
        registry.get("cbc").open(models.knapsack(1))


@pytest.mark.backend("highs")
def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(NotInstalledError, match="pip install highspy"):
        registry.get("highs").open(models.knapsack(1))


@pytest.mark.backend("gurobi")
def test_gurobi_refuses_what_its_licence_does_not_allow_before_solving():
    if registry.get("gurobi").available().max_columns is None:
        pytest.skip("a full Gurobi licence is installed")
    wide = models.model(np.zeros((0, 2001)), (0, 0), (0, 1), np.ones(2001))
    with pytest.raises(LicenseError, match=r"2001 columns and 0 constraints.*2000 of each"):
        registry.get("gurobi").open(wide)
    tall = models.model(np.ones((1500, 1)), (-1, 1), (0, 1), [1.0])
    session = registry.get("gurobi").open(tall)
    # A row with two sides brings a column of its own.
    session.add_rows(models.rows(np.ones((501, 1)), -np.inf, 1.0))
    with session, pytest.raises(LicenseError, match="1501 columns and 2001 constraints"):
        session.solve(Limits())


@pytest.mark.backend("gurobi")
def test_gurobi_at_its_limit_solves():
    at_limit = models.model(np.eye(2000), (-np.inf, 0.5), (0, 1), np.ones(2000), maximize=True)
    with registry.get("gurobi").open(at_limit) as session:
        assert session.solve(Limits()).objective == pytest.approx(1000)


@pytest.mark.backend("gurobi")
def test_lazy_rows_of_gurobi_do_not_outlive_their_solve():
    milp = models.knapsack(7)
    with registry.get("gurobi").open(milp) as session:
        forbid = Callbacks(lazy=lambda x: models.rows([np.ones(7)], -np.inf, 1.0) if x.sum() > 1.5 else None)
        least = session.solve(Limits(), callbacks=forbid)
        assert least.x.sum() <= 1 + 1e-6
        assert session.solve(Limits()).objective == pytest.approx(models.enumerate_optimum(milp))


@pytest.mark.backend("pyomo:appsi_highs")
def test_pyomo_names():
    with pytest.raises(InputError, match="pyomo:appsi_highs"):
        registry.get("pyomo")
    with pytest.raises(UnknownNameError, match="appsi_highs"):
        registry.get("pyomo:nosuch").open(models.knapsack(1))
    with pytest.raises(UnsupportedError, match="SOS1"):
        registry.get("pyomo:appsi_highs").open(models.sos1()[0].milp)


@pytest.mark.backend("pyomo:appsi_highs")
def test_child_of_pyomo_that_dies_is_an_error_and_the_next_session_has_a_new_one():
    milp = models.knapsack(8)
    backend = registry.get("pyomo:appsi_highs")
    with backend.open(milp) as session:
        session.solve(Limits())
        os.kill(session._child._process.pid, 9)
        with pytest.raises(SolverError, match="process that runs Pyomo"):
            session.solve(Limits())
    with backend.open(milp) as session:
        assert session.solve(Limits()).objective == pytest.approx(models.enumerate_optimum(milp))


def test_table_of_solvers():
    from rich.console import Console

    from stablenet.cli.lists import render_solvers, solvers_data

    data = json.loads(json.dumps(solvers_data()))
    names = [one["solver"] for one in data["solvers"]]
    assert {"highs", "scip", "cbc", "gurobi", "pyomo:appsi_highs"} <= set(names)
    highs = data["solvers"][names.index("highs")]
    assert highs["installed"]
    assert highs["capabilities"]["duals"]
    assert not highs["capabilities"]["sos1"]
    assert set(highs["capabilities"]) == set(data["capabilities"])
    console = Console(record=True, width=100, file=io.StringIO())
    render_solvers(data, console)
    text = console.export_text()
    assert all(name in text for name in ("highs", "scip", "cbc", "gurobi"))
    assert "SOS1 sets" in text
