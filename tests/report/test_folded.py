"""Where the import rounds, a report says that it speaks of the folded network, and how far that may be off."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from onnx_models import model, node, save
from oracle.schema import check_schema
from rich.console import Console

from stablenet import find_stable
from stablenet.cli.report_tables import render_summary
from stablenet.compare.publish.page import report_page


def net(folder: Path, divisor: float) -> Path:
    """Two layers; the first one's weights are divided by a number when the file is read."""
    weights = {"w": np.array([[3.0, 1.0]]).T, "d": np.array([divisor]), "v": np.array([[7.0]])}
    nodes = [
        node("MatMul", "x", "w", out="m"),
        node("Div", "m", "d", out="g"),
        node("Relu", "g", out="h"),
        node("MatMul", "h", "v", out="k"),
        node("Relu", "k", out="y"),
    ]
    return save(model(nodes, [1, 2], weights), folder, "net.onnx")


def test_a_folded_network_is_called_so_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = find_stable(net(tmp_path, 3.0 * 7.0), "box:-1:2", search="off").to_json()
    network = report["network"]
    assert (network["exact_import"], network["function"]) == (False, "folded")
    # The second weight is 1/21, the largest first pre-activation is off where both inputs are 2.
    off = 2 * abs(Fraction(1.0 / 21.0) - Fraction(1, 21))
    first, second = map(Fraction, network["import_difference"])
    assert 0 < off <= first < Fraction(1, 10**12)
    assert 7 * off <= second < Fraction(1, 10**11)
    assert list(check_schema(report)) == []
    render_summary(report, Console(width=200))
    assert "all this speaks of the folded network" in capsys.readouterr().out
    assert "all this speaks of the folded network" in report_page(report)


def test_an_exact_import_says_nothing_of_the_kind(tmp_path: Path) -> None:
    report = find_stable(net(tmp_path, 2.0), "box:-1:2", search="off").to_json()
    assert report["network"]["exact_import"] is True
    assert "function" not in report["network"]
    assert list(check_schema(report)) == []
    assert "all this speaks of the folded network" not in report_page(report)
