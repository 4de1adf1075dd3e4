"""``--arithmetic float32``: no verdict is contradicted by any float32 evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
from onnx_models import model, node, save
from single_precision import evaluations
from small import dense

from stablenet.api import find_stable
from stablenet.bounds import run
from stablenet.core.errors import ContradictionError, InputError, ReportError
from stablenet.domain.spec import parse_domain
from stablenet.onnx_io.reader import load_onnx
from stablenet.report.report import Report

GAPS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 0.0)
N = 3


def points(rng, low=-1.0, high=1.0, n=N):
    """Random points and all vertices of a box."""
    vertices = np.array(np.meshgrid(*[[low, high]] * n)).reshape(n, -1).T
    return np.concatenate([vertices, low + (high - low) * rng.random((100, n))])


def near_ties(folder, seed, *, depth=2, width=8):
    """A network in which, of every layer but the first, some neurons nearly touch 0: by a gap, from either side."""
    rng = np.random.default_rng(seed)
    sizes = [N, *[width] * depth, 2]
    weights = [rng.normal(size=(m, n)).astype(np.float32) for n, m in pairwise(sizes)]
    offsets = [(0.3 * rng.normal(size=m)).astype(np.float32) for m in sizes[1:]]
    part = parse_domain("box:-1:1", N).parts[0]

    def written():
        nodes, stored, last = [], {}, "x"
        for k, (w, b) in enumerate(zip(weights, offsets, strict=True)):
            stored |= {f"w{k}": w, f"b{k}": b}
            out = "y" if k == depth else f"g{k}"
            nodes.append(node("Gemm", last, f"w{k}", f"b{k}", out=out, transB=1))
            if k < depth:
                nodes.append(node("Relu", out, out=f"h{k}"))
                last = f"h{k}"
        return save(model(nodes, [1, N], stored), folder, f"near{seed}.onnx")

    for k in range(depth):
        bounds = run("branch:64", load_onnx(written()), part).layers[k]
        for i in range(width - 2):
            gap = GAPS[int(rng.integers(len(GAPS)))] * (bounds.upper[i] - bounds.lower[i])
            above, beyond = bool(rng.integers(2)), rng.choice([-1.0, 1.0])
            # Shifted by its largest (or smallest) value, the neuron is stable by the gap, or unstable by it.
            edge = bounds.upper[i] if above else bounds.lower[i]
            offsets[k][i] = np.float32(float(offsets[k][i]) - edge + beyond * gap)
    return written()


def evaluate_all(path, x):
    """Pre-activations of every layer in many ways, onnxruntime's own among them."""
    network = load_onnx(path)
    yield from evaluations(network, x, 1)
    proto = model([], [1, N])
    proto.ParseFromString(path.read_bytes())
    for k in range(len(network.layers)):
        proto.graph.output.append(type(proto.graph.output[0])(name=f"g{k}"))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [f"g{k}" for k in range(len(network.layers))]
    rows = [session.run(names, {"x": row[None].astype(np.float32)}) for row in x]
    yield [np.concatenate([row[k] for row in rows]) for k in range(len(names))]


def contradictions(report, path, x):
    """Verdicts and witnesses of a report that a float32 evaluation denies."""
    witnesses = np.array(report.data["witnesses"]).reshape(-1, N)
    found = []
    at_points, at_witnesses = list(evaluate_all(path, x)), list(evaluate_all(path, witnesses)) if len(witnesses) else []
    for entry in report.data["neurons"]:
        k, i = entry["layer"], entry["neuron"]
        values = np.stack([way[k][:, i] for way in [*at_points, *at_witnesses]][: len(at_points)])
        if entry["verdict"] == "stably_inactive" and (values > 0).any():
            found.append((k, i, "inactive", values.max()))
        if entry["verdict"] == "stably_active" and (values < 0).any():
            found.append((k, i, "active", values.min()))
        if not ((values >= entry["lower"]).all() and (values <= entry["upper"]).all()):
            found.append((k, i, "bounds"))
        for side, sign in (("positive", 1.0), ("negative", -1.0)):
            if entry[side]["state"] == "witnessed":
                shown = [sign * way[k][entry[side]["witness"], i] for way in at_witnesses]
                if not min(shown) > 0:
                    found.append((k, i, side, min(shown)))
    return found


SEARCHES = ["auto", "split", "branch", "network", "layer", "neuron"]


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(k, marks=pytest.mark.long) for k in range(3, 8))])
@pytest.mark.parametrize("search", SEARCHES)
def test_no_evaluation_contradicts_a_verdict(tmp_path, search, seed):
    path = near_ties(tmp_path, seed)
    report = find_stable(path, "box:-1:1", arithmetic="float32", search=search, threads=1, time_limit=20.0)
    assert contradictions(report, path, points(np.random.default_rng(seed))) == []
    real = find_stable(path, "box:-1:1", search=search, threads=1, time_limit=20.0)
    for ours, theirs in zip(report.data["neurons"], real.data["neurons"], strict=True):
        # What holds for every float32 evaluation holds for the real function.
        both = {ours["verdict"], theirs["verdict"]} - {"unknown"}
        assert len(both) <= 1 or all(question_of(n, "refuted") for n in (ours, theirs))


def question_of(neuron, state):
    return any(neuron[side]["state"] == state for side in ("positive", "negative"))


@pytest.mark.parametrize("formulation", ["bigm", "hull", "partition:2", "ideal:root", "gdp", "bigm-loose"])
@pytest.mark.parametrize("search", ["network", "neuron"])
def test_every_formulation_allows_for_rounding(tmp_path, formulation, search):
    for seed in (20, 21):
        path = near_ties(tmp_path, seed)
        options = {"search": search, "formulation": formulation, "bounds": "interval", "falsify": False}
        report = find_stable(path, "box:-1:1", arithmetic="float32", threads=1, time_limit=30.0, **options)
        assert contradictions(report, path, points(np.random.default_rng(seed))) == []


@pytest.mark.parametrize("bounds", ["interval", "crown", "crown-alpha", "branch:64", "lp", "milp:20"])
def test_every_bound_allows_for_rounding(tmp_path, bounds):
    for seed in (30, 31, 32):
        path = near_ties(tmp_path, seed)
        report = find_stable(path, "box:-1:1", arithmetic="float32", bounds=bounds, search="off", threads=1)
        assert contradictions(report, path, points(np.random.default_rng(seed))) == []


def test_these_networks_do_contradict_real_verdicts(tmp_path):
    """Else the tests above would test nothing."""
    found = []
    for seed in range(100, 130):
        path = near_ties(tmp_path, seed)
        report = find_stable(path, "box:-1:1", threads=1, time_limit=20.0)
        found += contradictions(report, path, points(np.random.default_rng(seed)))
        if {what[2] for what in found} >= {"inactive", "active"}:
            break
    assert {what[2] for what in found} >= {"inactive", "active"}


def absorbing(folder):
    """One neuron, ``2^25 x0 + x1 - 2^25 x2 - 1/2``: on x0 = x2 = 1 and 1 <= x1 it is at least 1/2."""
    weights = {"w": np.array([[2.0**25, 1.0, -(2.0**25)]]), "b": np.array([-0.5])}
    nodes = [node("Gemm", "x", "w", "b", out="g0", transB=1), node("Relu", "g0", out="y")]
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(3)) + "(declare-const Y_0 Real)\n"
    box = ((1.0, 1.0), (1.0, 1.5), (1.0, 1.0))
    text += "".join(f"(assert (>= X_{i} {low}))\n(assert (<= X_{i} {high}))\n" for i, (low, high) in enumerate(box))
    spec = folder / "box.vnnlib"
    spec.write_text(text + "(assert (<= Y_0 0.0))\n")
    return save(model(nodes, [1, 3], weights), folder, "absorbing.onnx"), str(spec)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_neuron_that_float32_turns_round_is_unknown(tmp_path, search):
    path, spec = absorbing(tmp_path)
    exact = Fraction(2) ** 25 + 1 - Fraction(2) ** 25 - Fraction(1, 2)
    assert exact > 0
    shown = min(values[0].min() for values in evaluations(load_onnx(path), np.array([[1.0, 1.25, 1.0]])))
    assert shown < 0
    real = find_stable(path, spec, search=search, threads=1)
    assert real.verdicts() == [["stably_active"]]
    report = find_stable(path, spec, search=search, threads=1, arithmetic="float32", time_limit=20.0)
    assert report.verdicts() == [["unknown"]]
    assert report.data["config"]["arithmetic"] == "float32"


def test_a_solver_is_not_contradicted_by_real_witnesses(tmp_path):
    """Where only float32 evaluations can take a sign, a solver's claim of it is set aside, not called a lie."""
    path, spec = absorbing(tmp_path)
    report = find_stable(path, spec, search="network", arithmetic="float32", threads=1, decide_by_bounds=False)
    assert report.verdicts() == [["unknown"]]
    assert not report.contradictions
    assert report.stopped_by == "borderline"


def test_a_report_of_real_arithmetic_is_no_start_and_the_other_is(tmp_path):
    path = dense(tmp_path)
    real, single = tmp_path / "real.json", tmp_path / "single.json"
    find_stable(path, "box:-0.2:0.2", threads=1).write(real)
    find_stable(path, "box:-0.2:0.2", threads=1, arithmetic="float32").write(single)
    with pytest.raises(ReportError, match="real arithmetic"):
        find_stable(path, "box:-0.2:0.2", arithmetic="float32", resume=str(real))
    again = find_stable(path, "box:-0.2:0.2", resume=str(single), search="off", falsify=False, threads=1)
    assert again.verdicts() == Report.read(single).verdicts()


def test_options_that_do_not_go_together(tmp_path):
    path = dense(tmp_path)
    with pytest.raises(InputError, match="--proof"):
        find_stable(path, "box:-0.2:0.2", arithmetic="float32", proof=str(tmp_path / "p"))
    with pytest.raises(InputError, match="arithmetic"):
        find_stable(path, "box:-0.2:0.2", arithmetic="float16")
    with pytest.raises(InputError, match="float32"):
        find_stable(load_onnx(path, "float32"), "box:-0.2:0.2")


def test_a_network_in_memory_is_read_anew_or_taken_row_by_row(tmp_path):
    path = dense(tmp_path)
    from_file = find_stable(path, "box:-0.2:0.2", arithmetic="float32", threads=1)
    read = find_stable(load_onnx(path), "box:-0.2:0.2", arithmetic="float32", threads=1)
    assert read.data["neurons"] == from_file.data["neurons"]
    network = load_onnx(path)
    layers = tuple(network.layers)
    bare = type(network)(network.n_inputs, layers, network.output)
    assert find_stable(bare, "box:-0.2:0.2", arithmetic="float32", threads=1).counts == from_file.counts


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "stablenet", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_terminal_the_report_and_the_page_say_which_arithmetic(tmp_path):
    path, report, page = dense(tmp_path), tmp_path / "report.json", tmp_path / "page.html"
    arguments = ("find", path, "--domain", "box:-0.2:0.2", "--output", report, "--page", page, "--threads", 1)
    run_ = command(*arguments, "--arithmetic", "float32")
    assert run_.returncode == 0, run_.stderr
    assert "arithmetic: float32" in run_.stdout
    assert json.loads(report.read_text())["config"]["arithmetic"] == "float32"
    assert "every evaluation in float32" in page.read_text()
    refused = command("find", path, "--domain", "box:-0.2:0.2", "--arithmetic", "float32", "--proof", tmp_path / "p")
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    proof = tmp_path / "proof"
    assert command(*arguments[:4], "--proof", proof, "--threads", 1).returncode == 0
    checked = command("check", path, "--report", report, "--proof", proof)
    assert checked.returncode == 2
    assert "in real arithmetic" in checked.stderr


def test_contradictions_are_still_found(tmp_path, monkeypatch):
    """A refutation that a float32 witness denies is a contradiction as in real arithmetic."""
    from stablenet.bounds.methods import Interval

    original = Interval.run

    def lying(self, network, part, context=None):
        bounds = original(self, network, part, context)
        return bounds.tighten(
            "interval", 0, bounds.layers[0].lower, np.minimum(bounds.layers[0].upper, 0.0), rigorous=True
        )

    monkeypatch.setattr(Interval, "run", lying)
    with pytest.raises(ContradictionError):
        find_stable(dense(tmp_path), "box:-1:1", arithmetic="float32", bounds="interval", threads=1)
