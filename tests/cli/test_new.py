"""`stablenet new`: a package of each kind is found by the command line, and its own suite passes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import dense

from stablenet.cli import main as cli
from stablenet.cli.new import ABOUT, Kind, write_package
from stablenet.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("run_blocks", ROOT / "docs" / "run_blocks.py")
run_blocks = importlib.util.module_from_spec(spec)
sys.modules["run_blocks"] = run_blocks
spec.loader.exec_module(run_blocks)


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)], env=os.environ | {"PYTHONPATH": str(folder)}, cwd=folder,
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", list(Kind))
def test_a_new_package_passes_its_suite_and_is_found(
    kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    name = f"my-{kind}"
    assert cli._run(["new", str(kind), name, "--folder", str(folder)]) == 0
    assert f"pip install -e {folder}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "pyproject.toml", f"stablenet_my_{kind}.py", "test_conformance.py"]
    )
    run_blocks.install(folder)  # as pip does, without an index
    suite = run(folder, "pytest", "-q", "test_conformance.py", "-p", "no:cacheprovider")
    assert suite.returncode == 0, suite.stdout
    assert " passed" in suite.stdout
    listed = json.loads(run(folder, "stablenet", ABOUT[kind].listing, "--json").stdout)
    rows = listed["solvers"] if isinstance(listed, dict) else listed
    assert name in {row.get("name", row.get("solver")) for row in rows}
    option = ABOUT[kind].option
    found = run(folder, "stablenet", "find", dense(tmp_path), "--domain", "box:-1:1", option, name)
    assert found.returncode in {0, 3}, found.stderr


def test_the_example_is_held_to_something(tmp_path: Path) -> None:
    """The written test fails as soon as the bound does not hold."""
    write_package(Kind.BOUND, "wrong", tmp_path / "wrong")
    code = tmp_path / "wrong" / "stablenet_wrong.py"
    text = code.read_text()
    assert "np.minimum(a.lower, b.lower)" in text
    code.write_text(text.replace("np.minimum(a.lower, b.lower)", "np.maximum(a.lower, b.lower)"))
    done = run(tmp_path / "wrong", "pytest", "-q", "test_conformance.py", "-p", "no:cacheprovider")
    assert done.returncode == 1
    assert "is reached" in done.stdout


@pytest.mark.parametrize("name", ["", "My", "a--b", "-a", "a b", "../a", "1a"])
def test_names_that_no_package_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lower-case letters"):
        write_package(Kind.SEARCH, name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'crown' is taken"):
        write_package(Kind.BOUND, "crown", tmp_path / "x")
    with pytest.raises(InputError, match="exists already"):
        write_package(Kind.BOUND, "mine", tmp_path)
    done = run(tmp_path, "stablenet", "new", "solver", "mine")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
