"""The report file: numbers that come back exactly, reasons to stop, and what is no report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.auditor import audit
from small import dense

from stablenet import Box, Polytope, Union, find_stable, load_onnx
from stablenet.core.errors import ReportError
from stablenet.core.ledger import NEGATIVE, POSITIVE, Ledger
from stablenet.report.report import Report, build_report, check_belongs, dumps, package_versions

NONE = np.zeros(0, dtype=np.intp)
DOMAIN = Box([-1.0, -1.0 / 3.0, 0.1], [1.0, 1e-300, 0.3])


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("net"))


def build(ledger: Ledger, stopped_by: str | None) -> Report:
    return build_report(
        ledger, network={"layers": [{}]}, domain={}, config={}, stopped_by=stopped_by, total_seconds=1.0
    )


def test_numbers_round_trip_exactly(path: Path, tmp_path: Path) -> None:
    report = find_stable(path, DOMAIN, threads=1)
    report.write(tmp_path / "r.json")
    again = Report.read(tmp_path / "r.json")
    assert again == report
    assert again.data["domain"]["lower"][1] == -1.0 / 3.0
    assert again.data["domain"]["upper"][1] == 1e-300
    assert audit(again.to_json(), path) == []
    check_belongs(again, load_onnx(path), DOMAIN)


DOMAINS = [
    Box([-1.0] * 3, [0.5] * 3),
    Union([Box([-1.0] * 3, [0.0] * 3), Box([0.25] * 3, [0.5] * 3)]),
    Polytope([-1.0] * 3, [1.0] * 3, [[1.0, 1.0, 0.0]], [0.5]),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=["box", "union", "polytope"])
def test_every_kind_of_domain(domain: Any, path: Path) -> None:
    report = find_stable(path, domain, search="network", threads=1)
    assert report.data["domain"]["kind"] == domain.to_json()["kind"]
    assert audit(json.loads(dumps(report.data)), path) == []
    check_belongs(report, load_onnx(path), domain)
    with pytest.raises(ReportError, match="another domain"):
        check_belongs(report, load_onnx(path), DOMAIN)


def test_bounds_hold_on_all_parts_of_a_union(path: Path) -> None:
    parts = [Box([-1.0] * 3, [0.0] * 3), Box([0.25] * 3, [0.5] * 3)]
    whole = find_stable(path, Union(parts), search="off", threads=1).data["neurons"]
    each = [find_stable(path, part, search="off", threads=1).data["neurons"] for part in parts]
    for neuron, *own in zip(whole, *each, strict=True):
        assert neuron["lower"] == min(n["lower"] for n in own)
        assert neuron["upper"] == max(n["upper"] for n in own)


@pytest.mark.parametrize("reason", ["time", "memory", "interrupt", "solver"])
def test_reasons_to_stop_are_kept_while_something_is_unknown(reason: str) -> None:
    report = build(Ledger([1]), reason)
    assert (report.data["status"], report.stopped_by) == ("stopped", reason)
    done = Ledger([1])
    done.refute(0, POSITIVE, np.array([0]), "crown", rigorous=True)
    report = build(done, reason)
    assert (report.data["status"], report.stopped_by) == ("complete", None)


def test_borderline_is_the_reason_only_if_nothing_else_is_left() -> None:
    ledger = Ledger([2])
    ledger.set_borderline(POSITIVE, np.array([0]))
    ledger.set_borderline(NEGATIVE, np.array([0]))
    assert build(ledger, None).stopped_by == "search"
    ledger.refute(0, POSITIVE, np.array([1]), "crown", rigorous=True)
    assert build(ledger, None).stopped_by == "borderline"
    assert build(ledger, "time").stopped_by == "time"


def test_counts_add_up() -> None:
    ledger = Ledger([5])
    ledger.refute(0, POSITIVE, np.array([0]), "crown", rigorous=True)
    ledger.refute(0, NEGATIVE, np.array([1]), "network", rigorous=False)
    ledger.add_witness(np.zeros(1), (np.array([2]), NONE), "samples")
    ledger.add_witness(np.ones(1), (NONE, np.array([2])), "samples")
    ledger.add_witness(np.ones(1), (np.array([3]), NONE), "samples")
    expected = {"stably_active": 1, "stably_inactive": 1, "unstable": 1, "unknown": 2, "rigorous": 2}
    assert build(ledger, None).counts == expected


def test_infinite_bounds_are_null_and_json_stays_json() -> None:
    text = dumps(build(Ledger([1]), None).data)
    assert "Infinity" not in text
    assert json.loads(text)["neurons"][0]["lower"] is None
    with pytest.raises(ValueError, match="JSON"):
        dumps({"value": float("nan")})


def test_contradictions_are_in_the_report() -> None:
    ledger = Ledger([1])
    ledger.refute(0, POSITIVE, np.array([0]), "liar", rigorous=False)
    ledger.add_witness(np.ones(1), (np.array([0]), NONE), "samples")
    assert build(ledger, "solver").contradictions == [
        {"source": "liar", "layer": 0, "neuron": 0, "side": "positive", "witness": 0}
    ]


def test_versions_name_what_results_depend_on() -> None:
    assert {"stablenet", "numpy", "scipy", "pyomo", "onnx", "highspy"} <= set(package_versions())


NO_REPORTS = {
    "empty": "",
    "half": '{"schema": "stablenet.report/1", "netw',
    "list": "[]",
    "number": "3",
    "other schema": '{"schema": "stablenet.comparison/1"}',
    "bare": '{"schema": "stablenet.report/1"}',
    "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("case", NO_REPORTS)
def test_what_is_no_report_is_refused(case: str, tmp_path: Path) -> None:
    content = NO_REPORTS[case]
    (tmp_path / "r.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ReportError, match=r"r\.json: ") as caught:
        Report.read(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


def test_a_missing_report(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        Report.read(tmp_path / "none.json")
    with pytest.raises(ReportError, match="cannot be read"):
        Report.read(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        Report({"value": float("inf")}).write(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]
