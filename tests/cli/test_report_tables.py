"""The summary on the terminal says what the report says."""

from __future__ import annotations

import copy
import io
import re

import pytest
from rich.console import Console

from stablenet.cli.report_tables import STOPPED, describe_domain, render_summary

OPEN = {"state": "open"}


def refuted(by, *, rigorous=True):
    return {"state": "refuted", "by": by, "rigorous": rigorous}


def witnessed(by):
    return {"state": "witnessed", "witness": 0, "by": by}


REPORT = {
    "config": {"arithmetic": "real"},
    "schema": "stablenet.report/1",
    "status": "complete",
    "stopped_by": None,
    "network": {
        "file": "net.onnx",
        "n_inputs": 2,
        "n_outputs": 1,
        "layers": [{"layer": 0, "name": "relu0", "size": 3}, {"layer": 1, "name": "relu1", "size": 2}],
    },
    "domain": {"kind": "box", "lower": [0.0, 0.0], "upper": [1.0, 1.0]},
    "seconds": {"load": 0.011, "bounds": 0.022, "falsify": 0.033, "search": 4.4, "total": 5.5},
    "solves": [
        {"by": "network", "rows": 7, "binaries": 2, "nodes": 5, "build_s": 0.125, "translate_s": 0.25, "solver_s": 1.5},
        {"by": "network", "rows": 7, "binaries": 2, "nodes": None, "translate_s": 0.25, "solver_s": 2.25},
    ],
    "counts": {"stably_active": 1, "stably_inactive": 2, "unstable": 2, "unknown": 0, "rigorous": 4},
    "neurons": [
        {"layer": 0, "neuron": 0, "verdict": "stably_active", "positive": OPEN, "negative": refuted("interval")},
        {"layer": 0, "neuron": 1, "verdict": "stably_inactive", "positive": refuted("crown"), "negative": OPEN},
        {
            "layer": 0,
            "neuron": 2,
            "verdict": "unstable",
            "positive": witnessed("falsify"),
            "negative": witnessed("falsify"),
        },
        {
            "layer": 1,
            "neuron": 0,
            "verdict": "stably_inactive",
            "positive": refuted("network", rigorous=False),
            "negative": witnessed("falsify"),
        },
        {
            "layer": 1,
            "neuron": 1,
            "verdict": "unstable",
            "positive": witnessed("network"),
            "negative": witnessed("falsify"),
        },
    ],
    "witnesses": [[0.0, 0.0]],
    "curve": [],
}


def show(report, width=120):
    stream = io.StringIO()
    render_summary(report, Console(file=stream, width=width))
    return stream.getvalue()


def rows(text):
    """Cells of the printed table rows, by their first cell."""
    cells = [re.split(r"\s*[│|]\s*", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_every_figure_is_the_report_s():
    text = show(REPORT)
    table = rows(text)
    assert "3 of 5 neurons are stable (60.0%), 2 unstable, 0 unknown; evidence of 4 verdicts is rigorous" in text
    assert "net.onnx: 2 inputs, 5 neurons in 2 layers; domain box [0, 1]^2" in text
    assert table["0 relu0"] == ["3", "1", "1", "1", "0"]
    assert table["1 relu1"] == ["2", "0", "1", "1", "0"]
    assert table["all"] == ["5", "1", "2", "2", "0"]
    assert table["interval"] == ["1", "0", "rigorous"]
    assert table["crown"][:2] == ["1", "0"]
    assert table["falsify"] == ["0", "4", "replayed inputs"]
    assert table["network (MILP)"] == ["1", "1", "within solver tolerance, replayed inputs"]
    assert table["open, not needed"][0] == "2"
    assert table["open, pending"][0] == "0"
    assert table["network"] == ["2", "7", "2", "5", "0.12", "0.50", "3.75"]
    assert table["seconds"] == ["0.011", "0.022", "0.033", "4.400", "1.034", "5.500"]


def test_a_stopped_run_says_why_and_how_to_go_on():
    report = copy.deepcopy(REPORT)
    report["status"], report["stopped_by"] = "stopped", "time"
    report["neurons"][4]["verdict"] = "unknown"
    report["neurons"][4]["positive"] = OPEN
    text = show(report)
    assert "stopped by time" in text
    assert "--resume" in text
    assert rows(text)["open, pending"][0] == "1"


def test_every_reason_to_stop_has_advice():
    from stablenet.report.schema import STOP_REASONS

    assert set(STOPPED) == set(STOP_REASONS)
    for reason in STOP_REASONS:
        assert STOPPED[reason] in show({**REPORT, "status": "stopped", "stopped_by": reason}, width=200)


def test_contradictions_are_shown():
    report = copy.deepcopy(REPORT)
    report["contradictions"] = [{"source": "scip", "layer": 1, "neuron": 0, "side": "positive", "witness": 0}]
    assert "contradiction: scip refuted that neuron 0 of layer 1 can be positive" in show(report)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_solves_no_layers_any_width(width):
    report = copy.deepcopy(REPORT)
    report["solves"], report["neurons"], report["network"]["layers"] = [], [], []
    report["counts"] = dict.fromkeys(report["counts"], 0)
    assert "0 of 0 neurons are stable (0.0%)" in show(report, width)
    show(REPORT, width)


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        ({"kind": "box", "lower": [0, 0.5], "upper": [1, 1]}, "box in dimension 2, widths from 0.5 to 1"),
        (
            {"kind": "polytope", "lower": [0], "upper": [1], "a": [[1]], "b": [1]},
            "box [0, 1]^1 with 1 linear constraints",
        ),
        (
            {"kind": "union", "parts": [{"kind": "box", "lower": [0], "upper": [1]}] * 2},
            "union of 2 parts: box [0, 1]^1, ...",
        ),
    ],
)
def test_domains_in_words(domain, text):
    assert describe_domain(domain) == text
