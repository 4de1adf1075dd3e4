"""The bench's table of formulations: figures of models, lines of runs, and what becomes of those that failed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from small import dense

from stablenet.api import find_stable
from stablenet.domain.spec import parse_domain

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
import formulation_table
from formulation_facts import facts
from formulation_lines import HEADS, line, table

SIZES = (3, 10, 10, 10, 2)
BOX = "".join(f"(declare-const X_{i} Real)\n(assert (>= X_{i} -0.5))\n(assert (<= X_{i} 0.5))\n" for i in range(3))


def cells(text: str) -> dict[str, str]:
    return dict(zip(HEADS, (cell.strip() for cell in text.strip("|\n").split("|")), strict=True))


def test_figures_of_a_model(tmp_path: Path) -> None:
    network, domain, frozen = dense(tmp_path, SIZES, seed=0), tmp_path / "box.vnnlib", tmp_path / "frozen.json"
    domain.write_text(BOX)
    report = find_stable(str(network), parse_domain(str(domain), 3), search="off", bounds="crown")
    report.write(frozen)
    specs = ("bigm", "bigm-loose", "hull", "ideal:root", "sos1", "relaxed")
    found = {spec: facts(str(network), str(domain), spec, "crown", str(frozen)) for spec in specs}
    assert {row["questions"] for row in found.values()} == {report.counts["unknown"]}
    assert found["bigm"]["lp_bound"] <= found["bigm-loose"]["lp_bound"] + 1e-9
    assert found["hull"]["lp_bound"] <= found["bigm"]["lp_bound"] + 1e-9
    assert found["ideal:root"]["lp_bound"] <= found["bigm"]["lp_bound"] + 1e-9
    assert found["ideal:root"]["cuts"] > 0
    # Without its sets nothing keeps a question from being witnessed.
    assert found["sos1"]["lp_bound"] == pytest.approx(report.counts["unknown"], abs=1e-5)
    assert found["sos1"]["sos1"] > 0 == found["sos1"]["binaries"]
    assert "lp_bound" not in found["relaxed"]


@pytest.mark.long
def test_the_table_is_made_of_runs_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, output = tmp_path / "networks", tmp_path / "out"
    networks.mkdir()
    dense(networks, SIZES, seed=0, name="net.onnx")
    (networks / "box.vnnlib").write_text(BOX)
    monkeypatch.setattr(formulation_table, "INSTANCES", (("small", "net.onnx", "box.vnnlib"),))
    monkeypatch.setattr(formulation_table, "BOUNDS", ("interval",))
    methods = {("network", "highs"): ("bigm", "hull"), ("neuron", "highs"): ("relaxed",)}
    monkeypatch.setattr(formulation_table, "METHODS", methods)
    arguments = ["table", str(networks), "--output", str(output), "--time-limit", "60"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        formulation_table.main()
    assert ended.value.code == 0
    text = (output / "formulations.md").read_text()
    assert "No two runs contradict each other." in text
    lines = [cells(row) for row in text.splitlines() if row.startswith(("| bigm ", "| hull ", "| relaxed "))]
    bigm, hull, relaxed = lines
    assert [row["formulation"] for row in lines] == ["bigm", "hull", "relaxed"]
    assert int(bigm["binaries"]) == int(hull["binaries"]) > 0 == int(relaxed["binaries"])
    assert int(hull["nonzeros"].replace(" ", "")) > int(bigm["nonzeros"]) > 0
    assert float(hull["LP bound"]) <= float(bigm["LP bound"]) + 0.01
    assert not relaxed["LP bound"]
    assert bigm["ended"] == hull["ended"] == "solved"
    assert [bigm[name] for name in HEADS[15:19]] == [hull[name] for name in HEADS[15:19]]


def test_a_missing_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["table", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        formulation_table.main()
    assert "lacks mnistfc_256x2.onnx" in capsys.readouterr().err


def test_a_model_that_fails_has_no_figures(tmp_path: Path) -> None:
    found = formulation_table.one_fact([str(tmp_path / "none.onnx"), "box:0:1", "bigm", "crown", "none.json"])
    assert found["failed"].startswith("exit code 1: ")
    assert "no such file" in found["failed"]


ROW: dict[str, Any] = {
    "instance": "a", "bounds": "lp", "formulation": "bigm", "solver": "highs", "search": "network", "machine": "{}",
    "load": 1.0, "time_limit": 9.0, "root_bound": None, "bounds_s": None, "build_s": None, "translate_s": None,
    "cuts_s": None, "solver_s": None, "cpu_s": 2.0, "nodes": None, "stably_active": None, "stably_inactive": None,
    "unstable": None, "unknown": None, "outcome": "crash", "reason": "signal 11",
}  # fmt: skip


def test_a_crash_is_a_row() -> None:
    row = cells(line(ROW, {"failed": "more than 300 s"}))
    assert row["ended"] == "crash: signal 11"
    assert not row["rows"]


def test_contradictions_come_first() -> None:
    text = "\n".join(table([ROW], {}, [{"text": "hull refuted what bigm shows"}], command="x"))
    assert "**1 contradictions:**" in text
    assert text.index("hull refuted") < text.index("## a, bounds lp")
    assert "No two runs" not in text
