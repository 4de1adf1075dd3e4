"""The notebooks of examples/ run, as Jupyter runs them, and show what they should."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def test_there_are_notebooks_without_stored_outputs():
    import json

    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    for network in EXAMPLES.glob("*.onnx"):
        shutil.copy(network, tmp_path)
    notebook = nbformat.read(path, as_version=4)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell["id"]: cell["outputs"] for cell in notebook.cells if cell["cell_type"] == "code"}
    pages = {name: [o["data"]["text/html"] for o in outputs if "data" in o] for name, outputs in shown.items()}
    assert "<table>" in pages["load"][0]
    assert "<svg" in pages["report"][0]
    assert "stably inactive" in pages["report"][0]
    assert shown["bound"][0]["text"].startswith("300 -> ")
