"""Compression of random awkward networks: exact for removal, within its bound for all else, in rational arithmetic."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from compress_tools import domain_of, exact_difference, points_of, quick_report, silenced
from oracle.networks import FAMILIES, case

from stablenet.compression.compress import compress
from stablenet.onnx_io.reader import load_onnx

PER_CHUNK = 20
CHUNKS = [range(start, start + PER_CHUNK) for start in range(0, 320, PER_CHUNK)]


def size(network) -> int:
    return sum(layer.affine.n_connections for layer in network.layers) + network.output.n_connections


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_removal_is_exact_and_merging_within_the_bound(seeds, tmp_path):
    kinds: Counter[str] = Counter()
    for seed in seeds:
        made = case(seed)
        path = tmp_path / f"{seed}.onnx"
        path.write_bytes(made.onnx)
        original, domain = load_onnx(path), domain_of(made)
        report = quick_report(original, domain)
        points = points_of(domain, 3, seed)

        removed = compress(path, silenced(report, keep=("positive",)), check=8)
        assert {step.kind for step in removed.steps} <= {"inactive", "unread", "constant"}
        # What is left of a layer may be constant, and reading it folds it, with rounding: then it can't be told here.
        if removed.network.exact or not original.exact:
            kinds["exact"] += 1
            assert not any(map(any, exact_difference(original, removed.network, points))), (seed, made.family)
            gone = sum(len(step.neurons) for step in removed.steps)
            if removed.network.n_neurons == original.n_neurons - gone:
                kinds["zero"] += 1
                assert not removed.rigorous_bound.any(), (seed, made.family)

        smaller = compress(path, report, check=8)
        kinds.update(step.kind for step in smaller.steps)
        differences = exact_difference(original, smaller.network, points)
        bound = [Fraction(value) for value in smaller.rigorous_bound.tolist()]
        assert all(d <= b for row in differences for d, b in zip(row, bound, strict=True)), (seed, made.family)
        if made.family not in ("cancelling", "float32") and is_double(smaller):
            outputs = np.abs(original.forward(points)).max(initial=1e-300)
            assert float(max(map(max, differences))) <= 1e-12 * outputs, (seed, made.family)
        assert size(smaller.network) <= size(smaller.paper[0]) <= size(original)
        assert smaller.network.n_neurons <= original.n_neurons

        if seed % 4 == 3:
            path.write_bytes(smaller.data)
            again = compress(path, quick_report(load_onnx(path), domain), check=8)
            # Bounds may prove a neuron inactive that they could not before the rest was folded; nothing else is left.
            kinds["again"] += bool(again.steps)
            assert not again.steps or again.steps[0].kind == "inactive", (seed, made.family)
    assert kinds["again"] <= 1
    assert kinds["inactive"]
    assert kinds["fold"]
    assert kinds["exact"] >= 0.9 * len(seeds)
    assert kinds["zero"] >= 0.6 * len(seeds)  # the others are constant or nearly so


def is_double(result) -> bool:
    import onnx

    model = onnx.load_model_from_string(result.data)
    return model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE


def test_every_family_is_covered():
    assert {case(seed).family for seeds in CHUNKS for seed in seeds} == set(FAMILIES)
