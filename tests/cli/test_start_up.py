"""What starts fast loads little: neither Pyomo, nor a solver, nor SciPy's slow parts before they are used.

The time that this saves is held by bench/test_bench_import.py, which needs a machine that does nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from small import dense

SLOW = {"pyomo", "highspy", "pyscipopt", "gurobipy", "scipy.stats", "scipy.optimize", "scipy.linalg", "pandas", "torch"}

COMMAND = """
import json, sys
from stablenet.cli import main
code = main._run(sys.argv[1:])
print("\\nLOADED", json.dumps([code, sorted(sys.modules)]))
"""

ENGINE = """
import json, sys
from stablenet.core.deadline import Deadline
from stablenet.core.options import Options
from stablenet.find.engine import run_job
request = {"network": sys.argv[1], "domain": "box:-1:1", "options": Options(search=sys.argv[2], threads=1).to_json()}
closing = run_job(request, lambda event: None, Deadline(None))
print("\\nLOADED", json.dumps([closing["stopped_by"], sorted(sys.modules)]))
"""


def loaded(code: str, *arguments: object) -> tuple[object, set[str]]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    outcome, names = json.loads(done.stdout.rpartition("LOADED")[2])
    return outcome, set(names)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["find", "--help"], ["bounds"], ["bounds", "--json"], ["searches"], ["formulations"], ["--version"]],
    ids=" ".join,
)
def test_lists_and_help_load_nothing_slow(arguments: list[str]) -> None:
    code, names = loaded(COMMAND, *arguments)
    assert code == 0
    assert not names & SLOW


def test_help_loads_not_even_numpy() -> None:
    assert "numpy" not in loaded(COMMAND, "--help")[1]


def test_find_without_a_solver_loads_nothing_slow_in_either_process(tmp_path) -> None:
    network = dense(tmp_path)
    code, names = loaded(COMMAND, "find", network, "--domain", "box:-1:1", "--search", "off")
    assert code in {0, 3}
    assert not names & SLOW
    assert "scipy" not in names, "the supervisor replays events and writes a report: NumPy is enough"
    stopped_by, names = loaded(ENGINE, network, "off")
    assert stopped_by in {None, "search"}
    assert "stablenet.bounds.crown" in names
    assert not names & SLOW


def test_what_these_tests_look_for_is_loaded_once_it_is_used() -> None:
    code = "import stablenet.formulations.base as base, sys, json\nbase.AffineRows\n"
    _, names = loaded(code + 'print("LOADED", json.dumps([0, sorted(sys.modules)]))')
    assert "pyomo" in names
