"""The formulation of docs/tutorials/formulation.md, as it stands there, in a package of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

USE = """
import json
import numpy as np
from stablenet.api import find_stable
from stablenet.domain.regions import Box
from stablenet.formulations.base import registry
from stablenet.cli.lists import formulations_data
from stablenet.pyomo_model.network_model import build_model
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.bounds import run
from stablenet.testing import formulations as suite

suite.run_all("split")
network = Network(1, (Layer(AffineMap(np.zeros(1), (Term(0, np.ones((1, 1))),)), "relu", (1,)),),
                  AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))),)))
part = Box(-np.ones(1), np.ones(1))
model = build_model(network, part, bounds=run("interval", network, part), formulation="split")
found, usual = (find_stable(network, part, formulation=name, search="network", falsify=False, bounds="loose",
                            decide_by_bounds=False, inject="off") for name in ("split", "bigm"))
assert found.complete and found.verdicts() == usual.verdicts() == [["unstable"]]
assert found.to_json()["solves"][0]["binaries"] == 1
entry = next(e for e in formulations_data() if e["name"] == "split")
print(json.dumps([registry.get("split").__module__, sorted(model.layer[0].component_map()), entry]))
"""


def blocks() -> list[str]:
    return CODE.findall((ROOT / "docs" / "tutorials" / "formulation.md").read_text())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that looks installed: a module and its entry points."""
    (tmp_path / "my_package.py").write_text(blocks()[0])
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[stablenet.formulations]\nsplit = my_package:Split\n")
    return tmp_path


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_is_short() -> None:
    lines = [line for line in blocks()[0].splitlines() if line.strip()]
    assert len(lines) < 40


def test_the_example_works_from_an_outside_package(package: Path) -> None:
    run = python(USE, package)
    assert run.returncode == 0, run.stderr
    module, components, entry = json.loads(run.stdout.splitlines()[-1])
    assert module == "my_package"
    assert {"split", "negative", "is_active", "pre", "post"} <= set(components)
    assert entry["module"] == "my_package"
    assert entry["variants"] == [{"spec": "split", "requires": [], "cuts": "none"}]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("bigm = my_package:Split\nother = my_package:Twin\n", "already registered"),
        ("split = my_package:np\n", "is no formulation"),
    ],
)
def test_a_bad_entry_point_is_named(package: Path, points: str, message: str) -> None:
    module = package / "my_package.py"
    module.write_text(module.read_text() + "\n\nclass Twin(Split):\n    name = 'split'\n")
    (package / "my_package-1.0.dist-info" / "entry_points.txt").write_text(f"[stablenet.formulations]\n{points}")
    run = python("from stablenet.formulations.base import registry; registry.get('bigm')", package)
    assert run.returncode != 0
    assert message in run.stderr
    assert "my_package" in run.stderr


def test_a_formulation_without_its_source_is_refused_by_name() -> None:
    from stablenet.formulations.bigm import BigM

    from stablenet.core.errors import InputError

    with pytest.raises(InputError, match=r"'bare' .*Bare\) has no paper: "):
        type("Bare", (BigM,), {"name": "bare", "paper": ""})
    type("Nameless", (BigM,), {"paper": ""})  # no entry of the registry: nothing to ask


def test_the_table_has_every_formulation_and_variant() -> None:
    from rich.console import Console
    from stablenet.formulations.base import registry

    from stablenet.cli.lists import formulations_data, render_formulations

    data = formulations_data()
    assert [entry["name"] for entry in data] == list(registry.names())
    needs = {v["spec"]: v["requires"] for entry in data for v in entry["variants"]}
    assert needs["ideal:cuts"] == ["user cuts during the search"]
    assert needs["ideal:root"] == []
    assert needs["sos1"] == ["SOS1 sets"]
    assert needs["indicator"] == ["indicator constraints"]
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    render_formulations(data, console)
    text = console.export_text()
    for spec in needs:
        assert spec in text
    assert "2102.04373" in text
