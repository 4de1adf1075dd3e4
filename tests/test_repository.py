"""The files around the code: one version, a complete sdist, pictures that are drawn from the code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

import stablenet

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


architecture = load("make_architecture")


def test_the_citation_names_this_version():
    assert f"version: {stablenet.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("command", [[sys.executable, "-m", "stablenet"], [Path(sys.executable).parent / "stablenet"]])
def test_both_ways_to_start_it_print_the_version(command):
    if not Path(command[0]).exists():
        pytest.skip("the script is not beside this Python")
    run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"{stablenet.__version__}\n"


def test_every_tracked_file_is_in_the_sdist():
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    if run.returncode:
        pytest.skip("not a repository: nothing says which files there should be")
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line[:1] not in {"", "#"}]
    files = [pattern for verb, *patterns in lines if verb == "include" for pattern in patterns]
    folders = [folder for verb, *rest in lines if verb == "graft" for folder in rest]
    package = {"stablenet", "backends", "formulations"}  # setuptools takes those by itself
    own = {"pyproject.toml", "MANIFEST.in"}
    missing = [
        name
        for name in run.stdout.splitlines()
        if name.split("/")[0] not in {*folders, *package}
        and name not in own
        and not any(fnmatch(name, pattern) for pattern in files)
    ]
    assert not missing
    assert not [folder for folder in folders if not (ROOT / folder).is_dir()]


def test_what_the_manifest_and_make_name_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    said = set(re.findall(r'@echo "make ([a-z-]+)', makefile))
    assert "docs" in said
    assert said <= targets
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "docs" in extras


def test_floors_put_each_box_above_what_it_imports():
    edges = {"cli": {"a", "c"}, "a": {"b"}, "b": {"a", "c"}, "c": set()}
    assert architecture.floors(edges) == {"cli": 2, "a": 1, "b": 1, "c": 0}
    picture = architecture.draw(edges)
    ET.fromstring(picture)  # noqa: S314 - our own text
    assert picture.count('class="circle"') == 2
    assert picture.count('class="pale"') == 1  # cli imports c, which follows from b importing it


def test_the_picture_has_every_folder_with_code():
    edges = architecture.graph()
    folders = {path.parent.name for top in architecture.TOP for path in (ROOT / top).rglob("*.py")} - {"stablenet"}
    assert folders == {name.rpartition(".")[2] for name in edges if name.rpartition(".")[2] in folders}
    level = architecture.floors(edges)
    far = architecture.reach(edges)
    assert all(level[a] > level[b] or a in far[b] for a in edges for b in edges[a])
    ET.fromstring(architecture.draw(edges))  # noqa: S314
