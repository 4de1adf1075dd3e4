"""A report is believed about the network and the domain that it was made for, and about no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import model, node, save
from scipy import sparse

from stablenet import Box, Network, Polytope, Union, find_stable
from stablenet.compression import compress
from stablenet.core.errors import ReportError
from stablenet.core.network import AffineMap, Layer, Term
from stablenet.equivalence.verify import verify
from stablenet.onnx_io.reader import load_onnx
from stablenet.report.report import Report, check_belongs

UNIT = Box([0.0], [1.0])


def made(weight: float = 1.0, offset: float = 5.0, out: float = 1.0) -> Network:
    """One neuron, in memory."""
    layer = Layer(AffineMap(np.array([offset]), (Term(0, np.array([[weight]])),)), "l", (1,))
    return Network(1, (layer,), AffineMap(np.zeros(1), (Term(1, np.array([[out]])),)))


def outside(folder: Path, bias: list[float]) -> Path:
    """A file whose weights stand in another one."""
    weights = {"w": np.eye(2, dtype=np.float32), "b": np.array(bias, np.float32)}
    proto = model([node("Gemm", "x", "w", "b", out="g"), node("Relu", "g", out="y")], [1, 2], weights)
    (folder / "w.bin").unlink(missing_ok=True)
    path = folder / "net.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def refusal(theirs: str, ours: str) -> str:
    return f"sha256 '{theirs}', not '{ours}'"


@pytest.mark.parametrize("other", [made(weight=2.0), made(offset=-0.5), made(out=2.0)])
def test_a_network_in_memory_is_known_by_its_content(other: Network, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    find_stable(made(), UNIT).write(path)
    assert find_stable(made(), UNIT, resume=str(path)).complete
    with pytest.raises(ReportError, match=refusal(made().identity, other.identity)):
        find_stable(other, UNIT, resume=str(path))


def test_the_structure_is_part_of_the_content() -> None:
    matrix = np.array([[1.0, 0.0], [0.0, 1.0]])

    def joined(first: int, second: int) -> Network:
        layer = Layer(AffineMap(np.zeros(2), (Term(0, matrix),)), "l", (2,))
        affine = AffineMap(np.zeros(2), (Term(first, matrix), Term(second, matrix)))
        return Network(2, (layer, Layer(affine, "m", (2,))), AffineMap(np.zeros(2), (Term(2, matrix),)))

    found = {joined(*sources).identity for sources in ((0, 1), (1, 1), (0, 0))}
    assert len(found) == 3
    csr = sparse.csr_array(matrix)
    moved = sparse.csr_array((csr.data, csr.indices[::-1].copy(), csr.indptr), shape=(2, 2))
    one, two = (Network(2, (), AffineMap(np.zeros(2), (Term(0, stored),))).identity for stored in (csr, moved))
    assert one != two


def test_a_network_changed_in_memory_is_not_the_file_any_more(tmp_path: Path) -> None:
    weights = {"w": np.ones((1, 1)), "b": np.ones(1)}
    path = save(
        model([node("Gemm", "x", "w", "b", out="g"), node("Relu", "g", out="y")], [1, 1], weights), tmp_path, "a.onnx"
    )
    network = load_onnx(path)
    assert network.identity == network.sha256
    changed = replace(network, layers=(replace(network.layers[0], affine=made().layers[0].affine),))
    report = find_stable(network, UNIT)
    with pytest.raises(ReportError, match=refusal(network.sha256, changed.identity)):
        check_belongs(report, changed, UNIT)
    check_belongs(report, load_onnx(path), UNIT)


def test_external_data_is_part_of_the_digest(tmp_path: Path) -> None:
    report, small = tmp_path / "report.json", tmp_path / "small.onnx"
    path = outside(tmp_path, [-2.0, 3.0])
    before = load_onnx(path).sha256
    find_stable(path, "box:0:1").write(report)
    assert find_stable(path, "box:0:1", resume=str(report)).complete
    compress(path, report).write(small)
    assert outside(tmp_path, [-0.5, -0.5]) == path
    after = load_onnx(path).sha256
    words = refusal(before, after)
    with pytest.raises(ReportError, match=words):
        find_stable(path, "box:0:1", resume=str(report))
    with pytest.raises(ReportError, match=words):
        compress(path, report)
    with pytest.raises(ReportError, match=words):
        verify(path, small, "box:0:1", report=report)


@pytest.mark.parametrize("digest", ["", None, 0, [], "missing"])
def test_no_digest_matches_nothing(digest: Any) -> None:
    data = find_stable(made(), UNIT).to_json()
    network = {key: value for key, value in data["network"].items() if key != "sha256"}
    if digest != "missing":
        network["sha256"] = digest
    with pytest.raises(ReportError, match="the report is about the network with sha256"):
        check_belongs(Report({**data, "network": network}), made(), UNIT)


def test_a_report_of_another_domain_is_refused_with_both_digests() -> None:
    report, other = find_stable(made(), UNIT), Box([0.0], [np.nextafter(1.0, 0.0)])
    with pytest.raises(ReportError, match=refusal(UNIT.digest, other.digest)):
        check_belongs(report, made(), other)


def test_domains_of_other_shapes_have_other_digests() -> None:
    """The same numbers in the same order."""
    found = [
        Box([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        Polytope([0.0], [0.0], [[0.0], [1.0]], [1.0, 1.0]),
        Union([Box([0.0], [0.0]), Box([0.0], [1.0]), Box([1.0], [1.0])]),
    ]
    assert len({domain.digest for domain in found}) == len(found)
