"""The backend marker: skips only what is not installed, records only what passed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SUITE = """
import pytest
from stablenet.backends.base import Availability, registry

class Fake:
    def __init__(self, installed):
        self.installed = installed
    def from_argument(self, argument):
        return self
    def available(self):
        return Availability(self.installed, None, "pip install it")

registry.__dict__["_found"] = ({"here": Fake(True), "absent": Fake(False)}, ())

@pytest.mark.backend("here")
def test_passes(): pass

@pytest.mark.backend("here")
def test_fails(): assert False

@pytest.mark.backend("absent")
def test_absent(): raise AssertionError("must not run")

@pytest.mark.backend("here:argument")
@pytest.mark.backend("absent")
def test_needs_both(): raise AssertionError("must not run")

@pytest.mark.backend("unheard")
def test_unknown(): pass
"""


def test_marker(tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_suite.py").write_text(SUITE)
    ran = tmp_path / "ran"
    ran.mkdir()
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    env = {**os.environ, "STABLENET_BACKENDS_RAN": str(ran)}
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=tmp_path)
    assert "1 failed, 1 passed, 2 skipped" in run.stdout, run.stdout
    assert "1 error" in run.stdout
    assert "absent is not installed: pip install it" in run.stdout
    assert "unknown solver 'unheard'; there are: absent, here" in run.stdout
    assert [path.name for path in ran.iterdir()] == ["here"]
    assert (ran / "here").read_text() == "test_suite.py::test_passes\n"
