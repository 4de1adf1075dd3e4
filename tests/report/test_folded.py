"""Where the import rounds, a report says that it speaks of the folded network, and how far that may be off."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from onnx_models import model, node, save
from oracle.schema import check_schema
from rich.console import Console

from stablenet import find_stable
from stablenet.bounds.folded import output_folding
from stablenet.cli.report_tables import render_summary
from stablenet.compare.publish.page import report_page
from stablenet.compression import compress
from stablenet.domain.spec import parse_domain
from stablenet.equivalence.properties import verify_property
from stablenet.equivalence.verify import verify
from stablenet.onnx_io.reader import load_onnx


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


def with_weights(folder: Path, name: str, weights: np.ndarray) -> Path:
    """The network of `net` with exact numbers in place of the quotients."""
    nodes = [
        node("MatMul", "x", "w", out="g"),
        node("Relu", "g", out="h"),
        node("MatMul", "h", "v", out="k"),
        node("Relu", "k", out="y"),
    ]
    numbers = {"w": weights.astype(np.float64), "v": np.array([[7.0]])}
    return save(model(nodes, [1, 2], numbers, kind=TensorProto.DOUBLE), folder, name)


def test_verify_speaks_of_what_the_files_compute(tmp_path: Path) -> None:
    """1/21 divided out by the import, and the same float64 in a file: equal as read, not in truth."""
    file = net(tmp_path, 3.0 * 7.0)
    a, domain = load_onnx(file), parse_domain("box:-1:2", 2)
    folded = np.asarray(a.layers[0].affine.terms[0].matrix)
    rounded = with_weights(tmp_path, "rounded.onnx", folded.T)
    truth = abs(7 * 2 * sum(Fraction(float(w)) for w in folded.ravel()) - Fraction(7 * 2 * 4, 21))
    assert 0 < truth <= Fraction(float(output_folding(a, domain)[0]))
    found = verify(file, rounded, domain)
    assert found.equal
    assert truth <= Fraction(found.bound) < Fraction(1, 10**11)
    assert found.deviation == found.to_json()["deviation"] > 0
    # What was lost on the way is more than a tolerance of half of it: nothing is claimed, nor is it a difference.
    half = verify(file, rounded, domain, tolerance=float(truth / 2))
    assert (half.outcome, half.found) == ("undecided", None)
    assert any("the import's rounding" in note for note in half.notes)
    assert verify(file, file, domain, tolerance=0.0).equal  # one file rounds alike


def test_a_property_says_that_it_is_of_the_folded_networks(tmp_path: Path) -> None:
    file, exact = net(tmp_path, 3.0 * 7.0), with_weights(tmp_path, "exact.onnx", np.array([[3.0, 1.0]]).T)
    found = verify_property(file, file, "box:-1:2", tolerance=0.5)
    assert (found.verdict, found.function) == ("holds", "folded")
    assert sum("all this speaks of the folded network" in note for note in found.notes) == 1
    found = verify_property(exact, exact, "box:-1:2", tolerance=0.5)
    assert (found.to_json()["function"], found.notes) == ("file", ())


def test_the_bound_of_a_compressed_file_counts_the_rounding_of_both_imports(tmp_path: Path) -> None:
    file = net(tmp_path, 3.0 * 7.0)
    made = compress(file, domain="box:0:2", search="off")
    domain = parse_domain("box:0:2", 2)
    assert (made.bound >= output_folding(load_onnx(file), domain)).all()
    assert (made.bound > 0).all()
    path = tmp_path / "small.onnx"
    made.write(path)
    assert verify(file, path, domain).equal
