"""Pages: of a run on the shipped network."""

from __future__ import annotations

from pathlib import Path

from stablenet.api import find_stable
from stablenet.compare.publish.page import report_page

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits_3x100.onnx"


def test_page_of_a_run(benchmark) -> None:
    report = find_stable(DIGITS, "box:0.4:0.6", search="off").to_json()
    assert "<html" in benchmark(report_page, report)
