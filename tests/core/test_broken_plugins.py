"""Plug-ins that cannot be used: listed by distribution and entry point, and in the way of nobody who names others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import slow_plugins
from small import dense

COMMAND = [sys.executable, "-P", "-m", "stablenet"]

SOLVER = "from stablenet.backends.highs import Highs\n"

FAULTS = {
    "raises": ("raise ZeroDivisionError('no\\nplug-in')\n", "ZeroDivisionError: no plug-in"),
    "exits": ("import sys\nprint('noise')\nsys.exit(0)\n", "SystemExit: 0"),
    "interrupts": ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    "syntax": ("def (\n", "SyntaxError"),
    "lacks": ("x = 1\n", "has no attribute 'Entry'"),
    "no_class": ("Entry = 7\n", "a subclass of Backend is expected"),
    "abstract": (
        "from stablenet.backends.base import Backend\nclass Entry(Backend):\n    name = 'abstract'\n",
        "it lacks available, open",
    ),
    "nameless": (SOLVER + "class Entry(Highs):\n    pass\n", "its name is None"),
    "badname": (SOLVER + "class Entry(Highs):\n    name = 'a:b'\n", "its name is 'a:b'"),
    "capable": (
        SOLVER + "class Entry(Highs):\n    name = 'capable'\n    capabilities = ['everything']\n",
        "a set of Capability is expected",
    ),
}


@pytest.fixture(name="plugins", scope="module")
def _plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    for name, (code, _) in FAULTS.items():
        slow_plugins.install(folder, code, {"backends": f"{name} = {name}:Entry"}, name)
    slow_plugins.install(folder, FAULTS["raises"][0], {"searches": "lost = other:Entry"}, "other")
    slow_plugins.install(
        folder, "from stablenet.formulations.bigm import BigM\nclass Entry(BigM):\n    name = 'bigm'\n",
        {"formulations": "mine = usurper:Entry"}, "usurper",
    )  # fmt: skip
    for name in ("first", "second"):
        code = f"from stablenet.bounds.methods import Interval\nclass Entry(Interval):\n    name = 'twin'  # {name}\n"
        slow_plugins.install(folder, code, {"bounds": f"{name} = {name}:Entry"}, name)
    torn = folder / "torn-1.0.dist-info"
    torn.mkdir()
    (torn / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\nVersion: 1.0\n")
    (torn / "entry_points.txt").write_text("[stablenet.backends]\nno equals sign\n")
    return folder


def run(plugins: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env=os.environ | {"PYTHONPATH": str(plugins)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_broken_solvers_are_listed(plugins: Path) -> None:
    done = run(plugins, "solvers", "--json")
    assert (done.returncode, "noise" in done.stdout) == (0, False)
    data = json.loads(done.stdout)
    assert {"highs", "scip"} <= {row["solver"] for row in data["solvers"]}
    broken = {row["name"]: row for row in data["broken"]}
    for name, (_, cause) in FAULTS.items():
        row = broken[name]
        assert (row["distribution"], row["entry_point"]) == (f"{name} 1.0", f"{name} = {name}:Entry")
        assert cause in row["cause"]
    assert broken["?"]["distribution"] == "torn 1.0"


@pytest.mark.parametrize(
    ("command", "name", "good", "words"),
    [
        ("searches", "lost", "network", ["other 1.0", "lost = other:Entry", "ZeroDivisionError: no plug-in"]),
        ("formulations", "bigm", "hull", ["usurper 1.0", "already registered by stablenet.formulations.bigm"]),
        ("bounds", "twin", "crown", ["first 1.0", "second 1.0", "already registered"]),
        ("solvers", "raises", "highs", ["raises 1.0", "raises = raises:Entry"]),
    ],
)
def test_lists_show_what_is_broken_and_what_is_not(
    command: str, name: str, good: str, words: list[str], plugins: Path
) -> None:
    done = run(plugins, command)
    assert done.returncode == 0, done.stderr
    assert good in done.stdout
    assert all(word in done.stdout for word in words), done.stdout
    data = json.loads(run(plugins, command, "--json").stdout)
    rows = data["broken"] if isinstance(data, dict) else [row for row in data if "broken" in row]
    assert name in {row["name"] for row in rows}


def test_who_names_no_broken_one_is_not_hindered(plugins: Path, tmp_path: Path) -> None:
    done = run(plugins, "find", dense(tmp_path), "--domain", "box:-1:1", "--formulation", "bigm", "--solver", "highs")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        *(("--solver", name, f"{name} = {name}:Entry is broken") for name in ("exits", "capable", "no_class")),
        ("--search", "lost", "search 'lost' of other 1.0, entry point lost = other:Entry is broken: ZeroDivisionError"),
        ("--bounds", "twin", "first = first:Entry is broken"),
        ("--solver", "nowhere", "broken: ?, abstract"),
    ],
)
def test_who_names_one_is_told_why(option: str, name: str, words: str, plugins: Path, tmp_path: Path) -> None:
    done = run(plugins, "find", dense(tmp_path), "--domain", "box:-1:1", option, name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
