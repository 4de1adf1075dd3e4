"""``compress`` and ``verify`` with ``--arithmetic float32``, held against float32 evaluations in many orders."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from single_precision import evaluations
from small import dense

from stablenet.api import find_stable
from stablenet.bounds.deviation import output_deviation
from stablenet.compression.compress import compress
from stablenet.core.errors import ReportError
from stablenet.domain.spec import parse_domain
from stablenet.equivalence.verify import verify
from stablenet.onnx_io.reader import load_onnx

SPEC = "box:0.2:0.7"


def points(count=150):
    rng = np.random.default_rng(4)
    return np.concatenate([0.2 + 0.5 * rng.random((count, 3)), rng.choice([0.2, 0.7], (50, 3))])


def outputs(path):
    """Outputs in every way of adding up, (ways, points, outputs)."""
    return np.stack([values[-1] for values in evaluations(load_onnx(path), points())])


@pytest.mark.parametrize("seed", range(4))
def test_outputs_are_within_the_deviation(tmp_path, seed):
    path = dense(tmp_path, (3, 12, 12, 2), seed)
    single = load_onnx(path, "float32")
    bound = output_deviation(single, parse_domain(SPEC, 3))
    off = np.abs(outputs(path) - load_onnx(path).forward(points()))
    assert (off <= bound).all()
    assert (off.max(axis=(0, 1)) > 1e-4 * bound).all()
    assert not output_deviation(load_onnx(path), parse_domain(SPEC, 3)).any()


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_any_two_evaluations_of_both_files_are_within_the_bound(tmp_path, seed, merge):
    path, small = dense(tmp_path, (3, 12, 12, 2), seed), tmp_path / "small.onnx"
    report = find_stable(path, SPEC, arithmetic="float32", threads=1)
    result = compress(path, report, arithmetic="float32", merge=merge)
    result.write(small)
    assert len(result.steps), "nothing was compressed: nothing is tested"
    assert result.same_sums == all(step.kind == "inactive" for step in result.steps)
    assert result.same_sums or merge
    ours, theirs = outputs(path), outputs(small)
    if result.same_sums:
        # The same products in the same order: "given" and "reversed" are the ways that leave the order alone.
        assert result.in_float32 == 0.0
        for way in (0, 1, 2, 3):
            assert np.array_equal(ours[way], theirs[way])
    else:
        assert np.abs(ours[:, None] - theirs[None]).max() <= result.in_float32
        assert (ours != theirs).any()
    verified = verify(path, small, SPEC, tolerance=1.0, arithmetic="float32")
    assert verified.outcome == "equal"
    assert verified.arithmetic == "float32"
    assert np.abs(ours[:, None] - theirs[None]).max() <= verified.bound
    assert verified.bound >= verified.deviation > 0


def test_a_tolerance_that_real_arithmetic_keeps_and_float32_may_not(tmp_path):
    path = dense(tmp_path, (3, 12, 12, 2), 1)
    assert verify(path, path, SPEC, tolerance=1e-7).outcome == "equal"
    in_float32 = verify(path, path, SPEC, tolerance=1e-7, arithmetic="float32")
    assert in_float32.outcome == "undecided"
    assert any("rounding" in note for note in in_float32.notes)
    seen = outputs(path)
    assert np.abs(seen[:, None] - seen[None]).max() > 1e-7
    assert verify(path, path, SPEC, tolerance=2.1 * in_float32.deviation, arithmetic="float32").outcome == "equal"


def test_a_difference_counts_if_every_two_evaluations_show_it(tmp_path):
    one, two = dense(tmp_path, (3, 12, 12, 2), 1), dense(tmp_path, (3, 12, 12, 2), 2, "other.onnx")
    found = verify(one, two, SPEC, tolerance=1e-3, arithmetic="float32")
    assert found.outcome == "different"
    at = found.found.point[None]
    for a in evaluations(load_onnx(one), at):
        for b in evaluations(load_onnx(two), at):
            assert np.abs(a[-1].astype(np.float64) - b[-1])[0, found.found.output] > found.found.difference
    real = verify(one, two, SPEC, tolerance=1e-3)
    assert real.found.difference >= found.found.difference


def test_a_report_of_real_arithmetic_does_not_do(tmp_path):
    path = dense(tmp_path, (3, 12, 12, 2), 1)
    real = find_stable(path, SPEC, threads=1)
    with pytest.raises(ReportError, match="real arithmetic"):
        compress(path, real, arithmetic="float32")
    assert compress(path, find_stable(path, SPEC, arithmetic="float32", threads=1)).in_float32 is None


def test_the_commands_say_which_arithmetic(tmp_path):
    path, small = dense(tmp_path, (3, 12, 12, 2), 1), tmp_path / "small.onnx"

    def command(*arguments):
        words = [sys.executable, "-m", "stablenet", *map(str, arguments), "--arithmetic", "float32", "--domain", SPEC]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    written = command("compress", path, "--output", small, "--threads", 1)
    assert written.returncode == 0, written.stderr
    assert "float32: any two evaluations" in written.stdout
    told = json.loads(command("compress", path, "--output", small, "--no-merge", "--json").stdout)
    assert (told["arithmetic"], told["float32_bound"], told["float32_same_sums"]) == ("float32", 0.0, True)
    refused = command("verify", path, small, "--property", "top1")
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "property" in refused.stderr
    verified = command("verify", path, small, "--tolerance", 0.1)
    assert verified.returncode == 0, verified.stderr
    assert "arithmetic: float32" in verified.stdout
    assert verify(path, small, SPEC, tolerance=0.1, arithmetic="float32").to_json()["deviation"] > 0
