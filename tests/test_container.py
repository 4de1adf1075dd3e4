"""The container file copies what a build needs; no container is run here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def copied() -> list[tuple[str, str]]:
    lines = [line.split() for line in (ROOT / "Containerfile").read_text().splitlines() if line.startswith("COPY ")]
    return [(source, line[-1]) for line in lines for source in line[1:-1]]


def test_what_the_container_copies_exists_and_the_entry_point_too():
    import tomllib

    assert copied()
    assert not [source for source, _ in copied() if not (ROOT / source).exists()]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert f'ENTRYPOINT ["{next(iter(scripts))}"]' in (ROOT / "Containerfile").read_text()


@pytest.mark.long
def test_a_wheel_is_built_from_what_the_container_copies(tmp_path):
    for source, target in copied():
        place = tmp_path / Path(target).relative_to("/")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, place)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path / "out")]
    subprocess.run([*command, str(tmp_path / "source")], check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    assert "stablenet/backends/highs.py" in names
    assert "stablenet/formulations/bigm.py" in names
    assert "stablenet/compare/publish/assets/page.css" in names
