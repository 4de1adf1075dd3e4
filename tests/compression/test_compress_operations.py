"""Each operation of compression on networks made for it, and what must be refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_models
import pytest
from compress_tools import loaded, points_of, quick_report, save_dense, silenced

from stablenet.compression.compress import compress, compress_network
from stablenet.compression.rank import MOST_CONDITION, row_basis
from stablenet.core.errors import ContradictionError, InputError, ReportError, UnknownNameError
from stablenet.domain.regions import Box, Union
from stablenet.equivalence.provenance import domain_of
from stablenet.onnx_io.reader import load_onnx
from stablenet.report.evidence import Evidence
from stablenet.report.report import Report

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits_3x100.onnx"


def unit_box(n: int) -> Box:
    return Box(np.zeros(n), np.ones(n))


def same(a, b, domain, tolerance=1e-12):
    points = points_of(domain, 50)
    expected = a.forward(points)
    np.testing.assert_allclose(b.forward(points), expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def layered(rng: np.random.Generator, sizes: list[int], shift: dict[int, float]) -> tuple[list, list]:
    """Random weights; the offsets of a layer in ``shift`` are moved so far that it is stable."""
    weights = [rng.normal(size=(m, n)) for n, m in pairwise(sizes)]
    offsets = [rng.normal(size=m) + shift.get(k, 0.0) for k, m in enumerate(sizes[1:])]
    return weights, offsets


def residual_model(rng: np.random.Generator, shift: float) -> onnx.ModelProto:
    """Two ReLU layers; the second, shifted, reads the first and the input, and the output reads both."""
    w = {name: rng.normal(size=shape) for name, shape in (("w0", (4, 4)), ("w1", (4, 4)), ("w2", (4, 3)))}
    w |= {"b1": rng.normal(size=4) + shift, "b2": rng.normal(size=3), "b0": rng.normal(size=4)}
    nodes = [
        onnx_models.node("Gemm", "x", "w0", "b0", out="g0"),
        onnx_models.node("Relu", "g0", out="h0"),
        onnx_models.node("Gemm", "h0", "w1", "b1", out="m1"),
        onnx_models.node("Add", "m1", "x", out="g1"),
        onnx_models.node("Relu", "g1", out="h1"),
        onnx_models.node("Add", "h1", "h0", out="s"),
        onnx_models.node("Gemm", "s", "w2", "b2", out="y"),
    ]
    return onnx_models.model(nodes, ["N", 4], w, kind=onnx.TensorProto.DOUBLE)


def test_a_layer_that_is_all_active_is_folded(tmp_path):
    weights, offsets = layered(np.random.default_rng(1), [5, 6, 6, 6, 3], {1: 400.0})
    path, domain = save_dense(tmp_path, weights, offsets), unit_box(5)
    network = load_onnx(path)
    result = compress(path, quick_report(network, domain))
    assert [step.kind for step in result.steps if step.layer == 1] == ["fold"]
    assert "relu1" not in {layer.name for layer in result.network.layers}
    same(network, result.network, domain)


def test_a_layer_that_is_all_inactive_makes_the_network_constant(tmp_path):
    weights, offsets = layered(np.random.default_rng(2), [5, 6, 6, 6, 3], {1: -400.0})
    path, domain = save_dense(tmp_path, weights, offsets), unit_box(5)
    network = load_onnx(path)
    result = compress(path, quick_report(network, domain))
    assert result.network.n_neurons == 0
    assert not result.network.output.terms
    same(network, result.network, domain)
    (tmp_path / "small.onnx").write_bytes(result.data)
    assert onnx_models.run(tmp_path / "small.onnx", points_of(domain, 3)).shape == (6, 3)  # a row for each sample


@pytest.mark.parametrize(("shift", "kind"), [(400.0, "fold"), (-400.0, "inactive")])
def test_the_same_with_residual_sources(shift, kind, tmp_path):
    path = onnx_models.save(residual_model(np.random.default_rng(3), shift), tmp_path)
    network, domain = load_onnx(path), unit_box(4)
    result = compress(path, quick_report(network, domain))
    assert kind in {step.kind for step in result.steps if step.layer == 1}
    assert len(result.network.layers) == 1
    same(network, result.network, domain)


def test_the_joint_effect_of_active_neurons_needs_its_rank(tmp_path):
    rng = np.random.default_rng(4)
    weights = [rng.normal(size=(40, 8)), rng.normal(size=(3, 40))]
    offsets = [np.r_[np.full(30, 200.0), np.zeros(10)], rng.normal(size=3)]
    path, domain = save_dense(tmp_path, weights, offsets), unit_box(8)
    network = load_onnx(path)
    report = quick_report(network, domain)
    assert report.counts["unstable"] == 10
    result = compress(path, report)
    (step,) = result.steps
    assert (step.kind, len(step.neurons), step.kept) == ("rank", 30, 3)
    assert result.network.n_neurons == 13
    assert result.provenance.neurons[0].tolist() == [*range(30, 40), -1, -1, -1]  # unstable neighbours untouched
    np.testing.assert_array_equal(result.network.layers[0].affine.terms[0].matrix[:10], weights[0][30:])
    assert result.paper[0].n_neurons == 18  # rows before the layer alone: rank 8
    same(network, result.network, domain)
    again = quick_report(result.network, domain)
    assert again.counts["stably_active"] == 3


def test_dependent_rows_keep_their_numbers(tmp_path):
    rng = np.random.default_rng(5)
    base = rng.normal(size=(2, 6))
    weights = [np.vstack([base, base[0] + 2 * base[1], rng.normal(size=(5, 6))]), rng.normal(size=(9, 8))]
    weights.append(rng.normal(size=(2, 9)))
    offsets = [np.r_[np.full(3, 50.0), np.zeros(5)], np.zeros(9), np.zeros(2)]
    path, domain = save_dense(tmp_path, weights, offsets), unit_box(6)
    network = load_onnx(path)
    evidence = Evidence.of(quick_report(network, domain), network)
    settled, steps = compress_network(network, evidence, operations="paper")
    assert ("dependent", 0) in {(step.kind, step.layer) for step in steps}
    assert (settled.provenance.neurons[0] >= 0).all()
    same(network, settled.network, domain)


def test_what_nothing_reads_goes(tmp_path):
    weights, offsets = layered(np.random.default_rng(6), [4, 5, 5, 2], {})
    weights[2][:, 1] = 0.0
    weights[1][:, 3] = 0.0
    path, domain = save_dense(tmp_path, weights, offsets), unit_box(4)
    result = compress(path, silenced(quick_report(load_onnx(path), domain)))
    assert {(step.kind, step.layer, step.neurons) for step in result.steps} == {
        ("unread", 1, (1,)),
        ("unread", 0, (3,)),
    }
    assert not result.rigorous_bound.any()


def test_compressing_again_finds_nothing_more(tmp_path):
    domain = unit_box(64)
    first = compress(DIGITS, quick_report(load_onnx(DIGITS), domain))
    assert first.steps
    network = loaded(first.data, tmp_path)
    second = compress(tmp_path / "small.onnx", quick_report(network, domain))
    assert not second.steps
    assert second.network.n_neurons == network.n_neurons


def test_a_report_that_proves_nothing_changes_nothing(tmp_path):
    domain = unit_box(64)
    report = silenced(quick_report(load_onnx(DIGITS), domain))
    dense, offsets = layered(np.random.default_rng(7), [4, 5, 2], {})
    path = save_dense(tmp_path, dense, offsets)
    result = compress(path, silenced(quick_report(load_onnx(path), unit_box(4))))
    assert not result.steps
    assert list(onnx.load(path).graph.node) == list(onnx.load_model_from_string(result.data).graph.node)
    # In the digits network some neurons have no connections at all: those go, which is no matter of the report.
    result = compress(DIGITS, report)
    assert {step.kind for step in result.steps} <= {"unread", "constant"}
    same(result.original, result.network, domain, 1e-14)


def test_unknown_neurons_stay(tmp_path):
    weights, offsets = layered(np.random.default_rng(8), [4, 6, 2], {0: -100.0})
    path = save_dense(tmp_path, weights, offsets)
    report = silenced(quick_report(load_onnx(path), unit_box(4)))
    for neuron in report.data["neurons"]:
        neuron["verdict"] = "stably_inactive"  # a word without a refutation
    assert not compress(path, report).steps


def test_reports_about_something_else_are_refused(tmp_path):
    network = load_onnx(DIGITS)
    report = quick_report(network, unit_box(64))
    weights, offsets = layered(np.random.default_rng(9), [64, 3, 2], {})
    with pytest.raises(ReportError, match="sha256"):
        compress(save_dense(tmp_path, weights, offsets), report)
    with pytest.raises(ReportError, match="another domain"):
        compress(DIGITS, report, domain=Box(np.zeros(64), np.full(64, 2.0)))
    short = Report({**report.data, "neurons": report.data["neurons"][:-1]})
    with pytest.raises(ReportError, match="every neuron"):
        compress(DIGITS, short)
    wrapped = Report({**report.data, "neurons": [{**n, "layer": -1} for n in report.data["neurons"]]})
    with pytest.raises(ReportError, match="malformed"):
        compress(DIGITS, wrapped)
    with pytest.raises(UnknownNameError, match="float32, float64"):
        compress(DIGITS, report, dtype="float8")


def test_a_false_refutation_is_caught(tmp_path):
    weights, offsets = layered(np.random.default_rng(10), [4, 6, 2], {})
    path = save_dense(tmp_path, weights, offsets)
    report = quick_report(load_onnx(path), unit_box(4))
    lie = {"state": "refuted", "by": "liar", "rigorous": True}
    neuron = next(n for n in report.data["neurons"] if n["verdict"] == "unstable")
    neuron["positive"] = lie
    with pytest.raises(ContradictionError, match="refutation that the report holds is false"):
        compress(path, report)


def test_names_batch_and_metadata_survive_and_the_domain_is_written(tmp_path):
    domain = Union([unit_box(64), Box(np.full(64, 0.5), np.full(64, 1.5))])
    result = compress(DIGITS, quick_report(load_onnx(DIGITS), domain))
    before, after = onnx.load(DIGITS), onnx.load_model_from_string(result.data)
    for ends in ("input", "output"):
        assert list(getattr(before.graph, ends)) == list(getattr(after.graph, ends))
    assert {n.op_type for n in after.graph.node} == {"Gemm", "Relu"}
    kept = {tensor.name for tensor in after.graph.initializer}
    assert kept <= {tensor.name for tensor in before.graph.initializer}
    old = {p.key: p.value for p in before.metadata_props}
    assert old.items() <= result.network.metadata.items()
    assert domain_of(result.network).digest == domain.digest


def test_domains_survive_as_text(tmp_path):
    from stablenet.domain.spec import domain_text

    rng = np.random.default_rng(11)
    for n in (3, 700):
        low = rng.normal(size=n)
        for domain in (Box(low, low + 1.0), unit_box(n)):
            result = load_onnx(save_dense(tmp_path, [np.ones((1, n))], [np.zeros(1)]))
            result.metadata["stablenet.domain"] = domain_text(domain)
            assert domain_of(result).digest == domain.digest


def test_weights_in_another_type(tmp_path):
    domain = unit_box(64)
    report = quick_report(load_onnx(DIGITS), domain)
    wide = compress(DIGITS, report, dtype="float64")
    model = onnx.load_model_from_string(wide.data)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {t.data_type for t in model.graph.initializer} == {onnx.TensorProto.DOUBLE}
    same(wide.original, wide.network, domain)
    weights, offsets = layered(np.random.default_rng(12), [5, 30, 3], {0: 300.0})
    path = save_dense(tmp_path, weights, offsets)
    narrow = compress(path, quick_report(load_onnx(path), unit_box(5)), dtype="float32")
    assert 0 < narrow.rigorous_bound.max() < 1e-2
    weights[1][:] = 1e39
    path = save_dense(tmp_path, weights, offsets)
    with pytest.raises(InputError, match="overflows float32"):
        compress(path, quick_report(load_onnx(path), unit_box(5)), dtype="float32")


def test_the_basis_reveals_rank_and_says_how_good_it_is():
    rng = np.random.default_rng(13)
    base = rng.normal(size=(3, 20))
    mix = rng.normal(size=(10, 3))
    found = row_basis(mix @ base, np.ones(20), np.zeros(10))
    assert found.rank == 3
    assert found.sound
    np.testing.assert_allclose(found.coefficients @ (mix @ base)[found.rows], mix @ base, atol=1e-12)
    # A row a thousand times smaller is not lost for that.
    scaled = (mix @ np.vstack([base[:2], base[2:] * 1e-13])) * np.r_[1e-9, np.ones(9)][:, None]
    assert row_basis(scaled, np.ones(20), np.zeros(10)).rank >= 2
    almost = np.vstack([base[0], base[0] + 1e-11 * base[1]])
    assert row_basis(almost, np.ones(20), np.zeros(2)).condition > MOST_CONDITION
    assert not row_basis(almost, np.ones(20), np.zeros(2)).sound
    assert row_basis(np.zeros((4, 3)), np.ones(3), np.zeros(4)).rank == 0


def test_without_merging_neurons_are_only_removed():
    result = compress(DIGITS, quick_report(load_onnx(DIGITS), unit_box(64)), merge=False)
    assert {step.kind for step in result.steps} <= {"inactive", "unread", "constant"}
    assert not result.rigorous_bound.any()
