"""A package of plug-ins that mark where they are and then hang, each with a temporary folder left open."""

from __future__ import annotations

from pathlib import Path

CODE = """
import os, tempfile, time
from pathlib import Path
from stablenet.backends.highs import Highs
from stablenet.formulations.bigm import BigM
from stablenet.bounds.methods import Interval
from stablenet.search.base import Search

def hang():
    folder = tempfile.mkdtemp(prefix="slow-")
    Path(folder, "model").write_text("x")
    mark = Path(os.environ["SLOW_MARK"])
    mark.with_suffix(".new").write_text(f"{os.getpid()} {folder}")
    mark.with_suffix(".new").replace(mark)
    while True:
        time.sleep(0.2)

class SlowSolver(Highs):
    name = "slow"
    def open(self, *_, **__):
        hang()

class SlowBounds(Interval):
    name = "slow"
    def run(self, *_, **__):
        hang()

class SlowFormulation(BigM):
    name = "slow"
    def encode(self, *_, **__):
        hang()

class SlowSearch(Search):
    name = title = paper = "slow"
    needs_solver = False
    def run(self, problem):
        hang()
"""

POINTS = {
    "backends": "slow = slow:SlowSolver",
    "bounds": "slow = slow:SlowBounds",
    "formulations": "slow = slow:SlowFormulation",
    "searches": "slow = slow:SlowSearch",
}


def install(folder: Path, code: str = CODE, points: dict[str, str] | None = None, name: str = "slow") -> Path:
    """Write a package with entry points into a folder for PYTHONPATH; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = POINTS if points is None else points
    (info / "entry_points.txt").write_text("".join(f"[stablenet.{group}]\n{text}\n" for group, text in groups.items()))
    return folder
