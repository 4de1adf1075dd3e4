"""The commands ``compress``, ``verify`` and ``info``: exit codes, tables, one line where something is wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from compress_tools import quick_report

from stablenet.cli import main as cli
from stablenet.domain.regions import Box
from stablenet.onnx_io.reader import load_onnx

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits_3x100.onnx"


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


@pytest.fixture(name="run")
def _run(monkeypatch, capsys):
    """The command line in this process: starting another takes longer than what is tested here."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["stablenet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out = capsys.readouterr()
        return Done(int(ended.value.code or 0), out.out, out.err)

    return run


@pytest.fixture(scope="module", name="report")
def _report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.json"
    quick_report(load_onnx(DIGITS), Box(np.zeros(64), np.ones(64))).write(path)
    return path


def test_compress_info_and_verify(run, report, tmp_path):
    small = tmp_path / "small.onnx"
    done = run("compress", DIGITS, "--report", report, "--output", small)
    assert (done.code, done.stderr) == (0, "")
    assert "stably inactive, removed: " in done.stdout
    assert "|f - f'| on the domain: at most " in done.stdout
    assert done.stdout.rstrip().endswith(f"written: {small}")
    done = run("info", small)
    assert "valid   on box:0.0:1.0, where |f - f'| <= " in done.stdout
    assert "stablenet.domain: box:0.0:1.0" in done.stdout
    assert json.loads(run("info", small, "--json").stdout)["valid"]["domain"]["kind"] == "box"
    assert "valid" not in run("info", DIGITS).stdout
    done = run("verify", DIGITS, small, "--domain", "box:0:1", "--report", report)
    assert done.code == 0
    assert done.stdout.startswith("equal within ")
    done = run("verify", DIGITS, small, "--domain", "box:-30:30", "--output", tmp_path / "x.npy", "--json")
    assert done.code == 4
    data = json.loads(done.stdout)
    assert data["outcome"] == "different"
    assert np.load(tmp_path / "x.npy").tolist() == data["counterexample"]["input"]
    done = run("verify", DIGITS, small, "--domain", "box:0:1", "--tolerance", "0", "--steps", "gradient")
    assert done.code == 3
    assert done.stdout.startswith("not decided within 0 ")


def test_compress_without_a_report_searches(run, tmp_path):
    small = tmp_path / "small.onnx"
    done = run(
        *("compress", DIGITS, "--domain", "box:0:1", "--search", "off", "--output", small, "--json", "--threads", 1)
    )
    assert done.code == 3, done.stderr  # bounds alone leave questions open
    data = json.loads(done.stdout)
    assert data["neurons"][2] < data["neurons"][0]
    assert data["bytes"][2] == small.stat().st_size


def test_types_and_names(run, report, tmp_path):
    small = tmp_path / "small.onnx"
    assert run("compress", DIGITS, "--report", report, "--dtype", "float64", "--output", small).code == 0
    before, after = onnx.load(DIGITS), onnx.load(small)
    kinds = {t.data_type for t in after.graph.initializer if len(t.dims) == 2}
    assert kinds == {onnx.TensorProto.DOUBLE}
    for ends in ("input", "output"):
        assert list(getattr(after.graph, ends)) == list(getattr(before.graph, ends))
    kept = {entry.key: entry.value for entry in after.metadata_props}
    assert all(kept[entry.key] == entry.value for entry in before.metadata_props)


def test_what_does_not_fit_is_one_line_and_nothing_is_written(run, report, tmp_path):
    small, other = tmp_path / "small.onnx", tmp_path / "other.onnx"
    model = onnx.load(DIGITS)
    model.producer_name = "someone else"
    onnx.save(model, other)
    for arguments, words in (
        (["--report", report, "--domain", "box:0:2"], "another domain"),
        (["--report", tmp_path / "none.json"], "cannot be read"),
        (["--report", report, "--dtype", "float16"], "there are: float32, float64"),
        (["--report", report, "--tolerance", "-1"], "tolerance"),
        ([], "--report"),
    ):
        done = run("compress", DIGITS, *arguments, "--output", small)
        assert (done.code, done.stderr.count("\n"), done.stdout) == (2, 1, ""), arguments
        assert words in done.stderr
    done = run("compress", other, "--report", report, "--output", small)
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert "sha256" in done.stderr
    done = run("verify", DIGITS, other, "--domain", "box:0:1", "--steps", "guess")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert not small.exists()
