"""Records of benchmarks compared by ratio; the stored one says nothing private."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def record(path, **times):
    entries = [{"fullname": name, "stats": {"min": seconds}} for name, seconds in times.items()]
    path.write_text(json.dumps({"benchmarks": entries}))
    return path


def compare(*arguments):
    return subprocess.run(
        [sys.executable, BENCH / "ratios.py", *arguments], capture_output=True, text=True, check=False
    )


def test_a_slower_machine_is_not_a_slower_program(tmp_path):
    old = record(tmp_path / "old.json", a=1.0, b=2.0, c=3.0, gone=1.0)
    new = record(tmp_path / "new.json", a=2.0, b=4.0, c=12.0, added=1.0)
    done = compare(new, old, "--fail", "1.5")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1] == ["c", "3.000000", "12.000000", "4.00", "2.00"]
    assert {(line[0], *line[3:]) for line in lines[2:4]} == {("a", "2.00", "1.00"), ("b", "2.00", "1.00")}
    assert done.stdout.endswith("only in the baseline: gone\nnew: added\n")
    assert done.returncode == 1
    assert "slower than 1.5 times the baseline, relative to the rest: c\n" in done.stderr
    assert compare(new, old, "--fail", "2.5").returncode == 0


@pytest.mark.parametrize("text", ["", "[]", '{"benchmarks": [{"fullname": "a"}]}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    done = compare(tmp_path / "bad.json")
    assert done.returncode == 1
    assert "no record of pytest-benchmark" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_stored_record_fits_the_suites_and_names_no_one():
    text = (BENCH / "baseline.json").read_text()
    stored = json.loads(text)
    assert set(stored["machine_info"]) == {"cpu", "cores", "system", "python"}
    assert set(stored["commit_info"]) == {"id", "dirty"}
    suites = {path.name: path.read_text() for path in BENCH.glob("test_bench_*.py")}
    for entry in stored["benchmarks"]:
        file, _, name = entry["fullname"].removeprefix("bench/").partition("::")
        assert re.search(rf"def {re.escape(name.partition('[')[0])}\(", suites[file]), entry["fullname"]
        assert 0 < entry["stats"]["min"] <= entry["stats"]["median"]
    assert len(stored["benchmarks"]) >= 20
