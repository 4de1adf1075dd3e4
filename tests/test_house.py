"""Rules of the house: layers, lazy solvers, sizes, versions, names that must agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import stablenet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOLVERS = {"highspy", "pyscipopt", "gurobipy", "cbcbox", "xpress", "cplex", "mosek"}
MOST_LINES = 400
FORBIDDEN = {"pickle", "shelve", "marshal", "dill", "requests", "urllib.request", "http.client", "ftplib"}

# Folders from the ground up; a module imports from its own folder and from those before it. No two share a floor, so
# there is no circle.
FLOORS = (
    "_version",
    "core",
    "domain",
    "check",
    "check_two",
    "milp",
    "onnx_io",
    "backends",
    "formulations",
    "falsify",
    "pyomo_model",
    "bounds",
    "report",
    "search",
    "find",
    "api",
    "equivalence",
    "compression",
    "integrations",
    "testing",
    "compare",
    "compare.run",
    "compare.publish",
    "instances",
    "cli",
    "__main__",
)


def tracked() -> list[Path]:
    """Files under version control; outside of a repository, all that are not built or cached."""
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    if run.returncode == 0:
        return [ROOT / name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()]
    hidden = {".venv", "build", "dist", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.relative_to(ROOT).parts)]


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted names, without ``stablenet.``, and files of all modules but the package itself."""
    for path in tracked():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.suffix == ".py" and parts[0] in {"stablenet", "backends", "formulations"}:
            name = ".".join(part for part in parts if part not in {"stablenet", "__init__"})
            if name:
                yield name, path


MODULES = dict(modules())


def floor(name: str) -> int:
    folder = name
    while folder and folder not in FLOORS:
        folder = folder.rpartition(".")[0]
    assert folder, f"stablenet.{name} stands in no folder of {FLOORS}"
    return FLOORS.index(folder)


def imported(path: Path) -> Iterator[str]:
    """All that a file imports, anywhere in it, by absolute dotted name; of names it is ``module.name``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """The module of the package that an imported name belongs to."""
    if not name.startswith("stablenet."):
        return None
    module = name.removeprefix("stablenet.")
    while module and module not in MODULES:
        module = module.rpartition(".")[0]
    assert module or name == "stablenet.__version__", f"{name}: no module has it (the package's root is for users)"
    return module or None


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name):
    wrong = [target for target in map(own, imported(MODULES[name])) if target and floor(target) > floor(name)]
    assert not wrong, f"stablenet.{name} ({FLOORS[floor(name)]}) imports {wrong} from above it"


def test_only_the_entry_points_stand_outside_of_folders():
    flat = {path.name for name, path in MODULES.items() if path.parent == ROOT / "stablenet" and "." not in name}
    assert flat <= {"api.py", "__main__.py", "_version.py"}


def test_no_file_of_the_product_is_long():
    long = {name: lines for name, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > MOST_LINES}
    assert not long, f"over {MOST_LINES} lines: {long}"


def test_a_formulation_knows_no_solver_and_a_backend_no_network():
    for name in MODULES:
        if name.startswith("formulations"):
            targets = {target for target in map(own, imported(MODULES[name])) if target}
            assert not {t for t in targets if t.startswith("backends") and t != "backends.base"}, name
        if name.startswith("backends"):
            targets = {target for target in map(own, imported(MODULES[name])) if target}
            assert not [
                t
                for t in targets
                if t.split(".")[0] in {"domain", "bounds"}
                or t in {"core.network", "core.bounds", "core.ledger", "core.run_log"}
            ], name


def test_a_comparison_reaches_into_nothing_but_the_report_and_the_command():
    """`compare` starts `find` commands and reads their reports; all else it has from ``find``, which checks a run."""
    allowed = {"compare", "report", "find", "core"}
    work = {"core.ledger", "core.network", "core.bounds", "core.certificates", "core.proofs", "core.run_log"}
    for name in MODULES:
        if name == "compare" or name.startswith("compare."):
            targets = {target for target in map(own, imported(MODULES[name])) if target}
            assert not {t for t in targets if t.split(".")[0] not in allowed or t in work}, name
            assert not targets & {"find.pipeline", "find.engine", "find.supervisor"}, name


def code_lines(path: Path) -> int:
    """Lines of a file that are neither blank, comments nor docstrings."""
    text = path.read_text()
    words: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            words |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and i not in words for i, line in lines)


@pytest.mark.parametrize(("folders", "most"), [(("check",), 800), (("check", "check_two"), 1070)])
def test_the_checker_of_proofs_shares_nothing_with_what_it_checks_and_is_short(folders, most):
    names = [name for name in MODULES if name.split(".")[0] in folders]
    assert {name.split(".")[0] for name in names} == set(folders)
    allowed = {"core.errors", "core.network", "core.proof_records", "domain.regions"}
    for name in names:
        targets = {target for target in map(own, imported(MODULES[name])) if target}
        assert not {t for t in targets - allowed if t.split(".")[0] not in folders}, name
    assert sum(code_lines(MODULES[name]) for name in names) <= most


def test_nothing_imports_what_is_forbidden():
    for name, path in MODULES.items():
        bad = {
            target for target in imported(path) if any(f"{target}.".startswith(f"{module}.") for module in FORBIDDEN)
        }
        assert not bad, f"stablenet.{name} imports {bad}"
        calls = [
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
        assert not {"eval", "exec"} & set(calls), f"stablenet.{name} evaluates code"


def test_importing_everything_imports_no_solver():
    names = [f"stablenet.{name}" for name in MODULES if name != "__main__"]
    code = "import importlib, sys\n"
    code += "\n".join(f"importlib.import_module({name!r})" for name in ["stablenet", *names])
    code += f"\nprint(sorted({SOLVERS!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT / "tests")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_every_package_is_packaged():
    packages = {f"stablenet.{name}" for name, path in MODULES.items() if path.name == "__init__.py"}
    assert packages | {"stablenet"} == set(PROJECT["tool"]["setuptools"]["packages"]), "see tool.setuptools.packages"


def test_no_large_file():
    files = tracked()
    assert ROOT / "pyproject.toml" in files
    assert not [path for path in files if path.stat().st_size > 1_000_000]


def test_one_version():
    declared = PROJECT["project"]["version"]
    assert stablenet.__version__ == declared
    assert version("stablenet") == declared
    heads = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert declared in heads


def test_extras_that_are_named_exist():
    extras = set(PROJECT["project"]["optional-dependencies"])
    named: dict[str, str] = {}
    for path in tracked():
        if path.suffix in {".py", ".md"} or path.name in {"Makefile", "run"}:
            for group in re.findall(r"(?:stablenet|\.)\[([a-z][a-z, ]*)\]", path.read_text()):
                named.update(dict.fromkeys(re.split(r", *", group), str(path)))
    make = (ROOT / "Makefile").read_text()
    for group in re.findall(r"\.installed-([a-z][a-z+]*)|TEST_EXTRAS \?= (\S+)", make):
        named.update(dict.fromkeys("".join(group).split("+"), "Makefile"))
    assert {"test", "dev"} <= set(named)
    assert not {name: path for name, path in named.items() if name not in extras}
