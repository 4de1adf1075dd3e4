"""The auditor itself: silent on an honest report made by hand, and loud on each way of falsifying it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from oracle.auditor import attacks, audit, audit_file, read_regions, verdict_of
from oracle.exact import Extrema, extrema
from oracle.graph import Graph
from oracle.layout import NotAuditableError
from oracle.networks import Case, case

Report = dict[str, Any]
SEEDS = range(120)


def outward(value: Any, direction: float) -> float:
    return float(np.nextafter(float(value), direction))


def honest(made: Case, truth: Extrema) -> Report:
    """A report that says all that is true and can be shown in float64; the rest is unknown."""
    pre = Graph(made.onnx).run([made.regions[0].lower])[0]
    witnesses: list[list[float]] = []
    neurons = []
    for k, lows in enumerate(truth.minimum):
        for i, low in enumerate(lows):
            high, neuron = truth.maximum[k][i], {"layer": k, "neuron": i}
            bounds = {"lower": outward(low, -np.inf), "upper": outward(high, np.inf)}
            states: dict[str, Any] = {}
            for side, possible, points in (("positive", high > 0, truth.argmax), ("negative", low < 0, truth.argmin)):
                point = [float(v) for v in points[k][i]]
                shown = any(region.contains(point) for region in made.regions) and _shows(made, point, k, i, side)
                states[side] = {"state": "open"}
                if not possible:
                    states[side] = {"state": "refuted", "by": "oracle", "rigorous": bool((k + i) % 2)}
                elif shown:
                    if point not in witnesses:
                        witnesses.append(point)
                    states[side] = {"state": "witnessed", "witness": witnesses.index(point), "by": "oracle"}
            verdict = verdict_of(states["positive"]["state"], states["negative"]["state"])
            neurons.append({**neuron, "verdict": verdict, **bounds, **states})
    report = {
        "schema": "stablenet.report/1",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"stablenet": "0"},
        "network": {
            "file": "random.onnx",
            "sha256": hashlib.sha256(made.onnx).hexdigest(),
            "n_inputs": made.plain.n_inputs,
            "n_outputs": len(made.plain.output.offset),
            "exact_import": True,
            "layers": [
                {
                    "layer": k,
                    "name": f"r{k}",
                    "size": p.value.shape[1],
                    "shape": list(p.shape or p.value.shape[1:]),
                    "origin": p.operator,
                }
                for k, p in enumerate(pre)
            ],
        },
        "domain": _domain(made),
        "config": {"search": "oracle"},
        "seconds": {
            "start": 0.0,
            "load": 0.0,
            "bounds": 0.0,
            "falsify": 0.0,
            "search": 0.4,
            "report": 0.1,
            "total": 0.5,
        },
        "solves": [],
        "neurons": neurons,
        "witnesses": witnesses,
    }
    return recount(report)


def recount(report: Report) -> Report:
    """Make counts, status and curve consistent with the neurons again."""
    verdicts = [n["verdict"] for n in report["neurons"]]
    names = ("stably_active", "stably_inactive", "unstable", "unknown")
    decisive = {"stably_active": "negative", "stably_inactive": "positive"}
    report["counts"] = {name: verdicts.count(name) for name in names}
    report["counts"]["rigorous"] = sum(
        n["verdict"] == "unstable" or (n["verdict"] in decisive and n[decisive[n["verdict"]]]["rigorous"])
        for n in report["neurons"]
    )
    waiting = sum(
        n[side]["state"] == "open"
        for n in report["neurons"]
        if n["verdict"] == "unknown"
        for side in ("positive", "negative")
    )
    report["status"] = "stopped" if "unknown" in verdicts else "complete"
    report["stopped_by"] = "borderline" if "unknown" in verdicts else None
    report["curve"] = [[0.0, 2 * len(verdicts)], [0.5, waiting]]
    return report


def _domain(made: Case) -> Report:
    boxes = [{"kind": "box", "lower": list(r.lower), "upper": list(r.upper)} for r in made.regions]
    return boxes[0] if len(boxes) == 1 else {"kind": "union", "parts": boxes}


def _shows(made: Case, point: list[float], k: int, i: int, side: str) -> bool:
    value = made.plain.forward(point)[0][k][i]
    pre = Graph(made.onnx).run([point])[0][k]
    return abs(value) > 4 * float(pre.error[0, i]) and (value > 0) == (side == "positive")


@pytest.fixture(scope="module", name="sample")
def _sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, Extrema]:
    """A report with every state in it, on a union, and its file."""
    for seed in range(400):
        made = case(seed)
        truth = extrema(made.plain, made.regions)
        report = honest(made, truth)
        counts = report["counts"]
        wanted = ("stably_active", "stably_inactive", "unstable")
        neurons = report["neurons"]
        loose = any(n["verdict"] == "stably_active" and n["lower"] > 0.01 for n in neurons)
        if all(counts[w] for w in wanted) and len(made.regions) == 2 and len(report["witnesses"]) > 2 and loose:
            path = tmp_path_factory.mktemp("auditor") / "net.onnx"
            path.write_bytes(made.onnx)
            return report, path, truth
    pytest.fail("no seed gives a report with every state")


def test_honest_reports_pass(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for seed in SEEDS:
        made = case(seed)
        truth = extrema(made.plain, made.regions)
        path.write_bytes(made.onnx)
        report = honest(made, truth)
        assert audit(report, path, exact=truth, attack=1 if seed < 24 else 0) == [], (seed, made.family)


def test_a_file_is_read_strictly(tmp_path: Path, sample: tuple[Report, Path, Extrema]) -> None:
    report, path, truth = sample
    target = tmp_path / "report.json"
    target.write_text(json.dumps(report), encoding="utf-8")
    assert audit_file(target, path, exact=truth) == []
    target.write_text(json.dumps({**report, "curve": [[float("nan"), 0]]}), encoding="utf-8")
    assert "NaN" in audit_file(target, path)[0]
    target.write_text(json.dumps(report)[:-5], encoding="utf-8")
    assert audit_file(target, path)


def _pick(report: Report, verdict: str) -> Report:
    return next(n for n in report["neurons"] if n["verdict"] == verdict)


def _refute(neuron: Report, side: str) -> None:
    neuron[side] = {"state": "refuted", "by": "liar", "rigorous": True}
    neuron["verdict"] = verdict_of(neuron["positive"]["state"], neuron["negative"]["state"])


Change = Callable[[Report], None]


def _key(*path: Any, value: Any = ...) -> Change:
    """Replace, or without a value delete, what is found on a path of keys."""

    def change(report: Report) -> None:
        target: Any = report
        for key in path[:-1]:
            target = target[key]
        if value is ...:
            del target[path[-1]]
        else:
            target[path[-1]] = value

    return change


def _swap_witnesses(neuron: Report) -> None:
    positive, negative = neuron["positive"]["witness"], neuron["negative"]["witness"]
    neuron["positive"]["witness"], neuron["negative"]["witness"] = negative, positive


def _push_out(report: Report) -> None:
    top = max(region.upper[0] for region in read_regions(report["domain"]))
    report["witnesses"][0][0] = outward(top, np.inf)


def _narrow(report: Report, which: str) -> None:
    neuron = next(n for n in report["neurons"] if n["verdict"] == "stably_active" and n["lower"] > 0.01)
    middle = neuron["lower"] + 1e-9 if which == "lower" else neuron["upper"] - 1e-9 * (1 + abs(neuron["upper"]))
    neuron[which] = middle
    neuron["lower" if which == "upper" else "upper"] = -1e9 if which == "upper" else 1e9


def _lie(report: Report, verdict: str, side: str) -> None:
    _refute(_pick(report, verdict), side)
    used = {n[s].get("witness") for n in report["neurons"] for s in ("positive", "negative")} - {None}
    keep = sorted(used)
    report["witnesses"] = [report["witnesses"][number] for number in keep]
    for neuron in report["neurons"]:
        for s in ("positive", "negative"):
            if "witness" in neuron[s]:
                neuron[s]["witness"] = keep.index(neuron[s]["witness"])
    recount(report)


SCHEMA_FAULTS: dict[str, Change] = {
    **{
        f"without {key}": _key(key)
        for key in ("schema", "status", "stopped_by", "created", "versions", "network", "domain", "config", "seconds")
    },
    **{f"without {key}": _key(key) for key in ("solves", "counts", "neurons", "witnesses", "curve")},
    "an extra key": _key("extra", value=1),
    "an extra key of a neuron": _key("neurons", 0, "extra", value=1),
    "another schema": _key("schema", value="stablenet.report/2"),
    "a bad date": _key("created", value="yesterday"),
    "a short digest": _key("network", "sha256", value="abc"),
    "no versions": _key("versions", value={}),
    "an infinite number": _key("seconds", "total", value=float("inf")),
    "a tuple where a list stands": _key("curve", value=[(0.0, 1)]),
    "a verdict that does not exist": _key("neurons", 0, "verdict", value="dead"),
    "a state that does not exist": _key("neurons", 0, "positive", value={"state": "maybe"}),
    "a refutation without rigour": _key("neurons", 0, "positive", value={"state": "refuted", "by": "x"}),
    "a witness by nobody": _key("neurons", 0, "positive", value={"state": "witnessed", "witness": 0}),
    "an open question with evidence": _key("neurons", 0, "positive", value={"state": "open", "by": "x"}),
    "a Boolean for a number": _key("neurons", 0, "neuron", value=False),
    "a reason without a stop": _key("stopped_by", value="time"),
    "a stop for no known reason": _key("stopped_by", value="boredom"),
    "a solve without a status": _key("solves", value=[{"by": "network"}]),
    "a domain of no kind": _key("domain", value={"lower": [], "upper": []}),
    "seconds that are not accounted for": _key("seconds", "total", value=0.75),
    "seconds below zero": _key("seconds", "load", value=-1.0),
}

CONTENT_FAULTS: dict[str, Change] = {
    "another file": _key("network", "sha256", value="0" * 64),
    "another size": _key("network", "layers", 0, "size", value=99),
    "another shape": _key("network", "layers", 0, "shape", value=[1, 1, 7]),
    "a layer too few": lambda r: r["network"]["layers"].pop(),
    "another input count": _key("network", "n_inputs", value=77),
    "another output count": _key("network", "n_outputs", value=77),
    "a neuron missing": lambda r: r["neurons"].pop(),
    "two neurons swapped": lambda r: r["neurons"].reverse(),
    "a neuron twice": lambda r: r["neurons"].append(r["neurons"][-1]),
    "a count too high": lambda r: r["counts"].update(unstable=r["counts"]["unstable"] + 1),
    "rigorous too high": lambda r: r["counts"].update(rigorous=r["counts"]["rigorous"] + 1),
    "a verdict that its questions do not give": lambda r: _pick(r, "stably_active").update(verdict="stably_inactive"),
    "stable without refutation": lambda r: _pick(r, "stably_active").update(negative={"state": "open"}),
    "bounds upside down": lambda r: r["neurons"][0].update(lower=2.0, upper=1.0),
    "no bound though complete": lambda r: r["neurons"][0].update(lower=None),
    "a witness that is never used": lambda r: r["witnesses"].append(list(r["witnesses"][0])),
    "a witness that does not exist": lambda r: _pick(r, "unstable")["positive"].update(witness=999),
    "a witness of the other sign": lambda r: _swap_witnesses(_pick(r, "unstable")),
    "a witness outside by one bit": _push_out,
    "a witness of the wrong length": lambda r: r["witnesses"][0].append(0.0),
    "a curve that grows": _key("curve", value=[[0.0, 0], [0.1, 3], [0.2, 0]]),
    "a curve back in time": _key("curve", value=[[0.0, 9], [0.2, 3], [0.1, 0]]),
    "a curve that ends too high": _key("curve", value=[[0.0, 9]]),
    "no curve": _key("curve", value=[]),
    "a bound that a witness breaks": lambda r: _pick(r, "unstable").update(upper=0.0),
    "an upper bound below the truth": lambda r: _narrow(r, "upper"),
    "a lower bound above the truth": lambda r: _narrow(r, "lower"),
    "an unstable neuron called stable": lambda r: _lie(r, "unstable", "negative"),
    "an unstable neuron called inactive": lambda r: _lie(r, "unstable", "positive"),
    "an active neuron called inactive": lambda r: _lie(r, "stably_active", "positive"),
    "stopped though nothing is unknown": lambda r: r.update(status="stopped", stopped_by="time"),
}


@pytest.mark.parametrize("fault", [*SCHEMA_FAULTS, *CONTENT_FAULTS])
def test_every_fault_is_found(fault: str, sample: tuple[Report, Path, Extrema]) -> None:
    report, path, truth = sample
    assert audit(report, path, exact=truth) == []
    wrong = copy.deepcopy(report)
    {**SCHEMA_FAULTS, **CONTENT_FAULTS}[fault](wrong)
    assert audit(wrong, path, exact=truth), fault


def test_attacks_disprove_false_refutations_without_the_oracle(tmp_path: Path) -> None:
    """Each unstable neuron in turn is called stable; searching finds an input for nearly all of them."""
    found = tried = 0
    path = tmp_path / "net.onnx"
    for seed in range(48):
        made = case(seed)
        truth = extrema(made.plain, made.regions)
        report = honest(made, truth)
        path.write_bytes(made.onnx)
        for number, neuron in enumerate(report["neurons"]):
            if neuron["verdict"] == "unstable":
                wrong = copy.deepcopy(report)
                _refute(wrong["neurons"][number], "positive" if number % 2 else "negative")
                tried += 1
                complaints = attacks(wrong, Graph(made.onnx), made.regions, rounds=3, targets=2)
                found += any(f"{neuron['layer']}/{neuron['neuron']}" in c for c in complaints)
    assert tried > 60
    assert found >= 0.9 * tried


def test_the_evaluator_bounds_its_own_rounding() -> None:
    """Against exact rational forward passes: every value within its error bound, and the bound is small."""
    for seed in SEEDS:
        made = case(seed)
        points = [made.regions[0].lower, made.regions[-1].upper]
        pre, output = Graph(made.onnx).run(points)
        for row, point in enumerate(points):
            layers, last = made.plain.forward(point)
            values = [(node.value[row], node.error[row]) for node in pre] + [(output.value[row], output.error[row])]
            for exact, (value, error) in zip([*layers, last], values, strict=True):
                size = 1.0 + max(abs(float(g)) for layer in (*layers, last) for g in layer)
                for g, v, e in zip(exact, value.tolist(), error.tolist(), strict=True):
                    assert abs(g - type(g)(v)) <= type(g)(e), (seed, made.family)
                    assert e <= 1e-10 * size * size


def _model(nodes: list[onnx.NodeProto], shape: list[int], **constants: Any) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


_RNG = np.random.default_rng(0)
OPERATORS: dict[str, tuple[list[onnx.NodeProto], list[int], dict[str, Any]]] = {
    "Gemm": (
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)],
        [1, 4],
        {"w": _RNG.normal(size=(3, 4)), "b": _RNG.normal(size=3)},
    ),
    "Gemm transA": (
        [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)],
        [4, 1],
        {"w": _RNG.normal(size=(4, 3))},
    ),
    "MatMul left": ([helper.make_node("MatMul", ["w", "x"], ["y"])], [4, 1], {"w": _RNG.normal(size=(3, 4))}),
    "Conv": (
        [
            helper.make_node(
                "Conv", ["x", "w", "b"], ["y"], strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2], group=2
            )
        ],
        [1, 4, 6, 7],
        {"w": _RNG.normal(size=(6, 2, 3, 2)), "b": _RNG.normal(size=6)},
    ),
    "Conv 1-D": ([helper.make_node("Conv", ["x", "w"], ["y"])], [1, 2, 6], {"w": _RNG.normal(size=(3, 2, 3))}),
    "BatchNormalization": (
        [helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3)],
        [1, 3, 2, 2],
        {k: _RNG.random(3) for k in "sbmv"},
    ),
    "AveragePool": (
        [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0])],
        [1, 2, 5, 5],
        {},
    ),
    "AveragePool with padding": (
        [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1)],
        [1, 2, 4, 4],
        {},
    ),
    "GlobalAveragePool": ([helper.make_node("GlobalAveragePool", ["x"], ["y"])], [1, 2, 3, 4], {}),
    "Pad": ([helper.make_node("Pad", ["x", "p"], ["y"])], [1, 2, 3], {"p": np.array([0, 1, 2, 0, 0, 1])}),
    "Transpose": ([helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1])], [1, 2, 3], {}),
    "Reshape": ([helper.make_node("Reshape", ["x", "s"], ["y"])], [1, 2, 6], {"s": np.array([0, -1, 3])}),
    "Squeeze": ([helper.make_node("Squeeze", ["x", "a"], ["y"])], [1, 1, 3], {"a": np.array([1])}),
    "Unsqueeze": ([helper.make_node("Unsqueeze", ["x", "a"], ["y"])], [1, 3], {"a": np.array([1, -1])}),
    "Slice": (
        [helper.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        [1, 3, 7],
        {"s": np.array([-1, 0]), "e": np.array([-100, 2]), "a": np.array([2, 1]), "t": np.array([-2, 1])},
    ),
    "Concat": ([helper.make_node("Concat", ["x", "c", "x"], ["y"], axis=-1)], [1, 3], {"c": np.ones((1, 2))}),
    "Div": ([helper.make_node("Div", ["x", "c"], ["y"])], [1, 2, 3], {"c": _RNG.random((2, 1)) + 1.0}),
    "LeakyRelu": ([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.25)], [1, 5], {}),
    "PRelu": ([helper.make_node("PRelu", ["x", "c"], ["y"])], [1, 5], {"c": _RNG.random(5)}),
    "Clip": ([helper.make_node("Clip", ["x", "l", "h"], ["y"])], [1, 5], {"l": np.array(-0.5), "h": np.array(0.25)}),
    "Clip from below": ([helper.make_node("Clip", ["x", "l"], ["y"])], [1, 5], {"l": np.array(-0.5)}),
    "Max": ([helper.make_node("Max", ["x", "c", "d"], ["y"])], [1, 5], {"c": _RNG.normal(size=5), "d": np.zeros(1)}),
    "Min": ([helper.make_node("Min", ["c", "x"], ["y"])], [1, 2, 3], {"c": _RNG.normal(size=(2, 1))}),
    "MaxPool": (
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0])],
        [1, 2, 5, 5],
        {},
    ),
    "Abs": ([helper.make_node("Abs", ["x"], ["y"])], [1, 5], {}),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_agree_with_the_reference_of_onnx(name: str) -> None:
    nodes, shape, constants = OPERATORS[name]
    data = _model(nodes, shape, **constants)
    points = np.random.default_rng(1).normal(size=(3, int(np.prod(shape))))
    reference = ReferenceEvaluator(onnx.load_from_string(data))
    expected = np.array([np.ravel(reference.run(None, {"x": p.reshape(shape)})[0]) for p in points])
    _, output = Graph(data).run(points)
    assert output.value == pytest.approx(expected, rel=1e-6 if name == "LeakyRelu" else 1e-13, abs=1e-13)


def test_an_unknown_operator_is_refused_by_name() -> None:
    data = _model([helper.make_node("Sin", ["x"], ["y"])], [1, 2])
    with pytest.raises(NotAuditableError, match="Sin"):
        Graph(data).run([[0.0, 0.0]])
