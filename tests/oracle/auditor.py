"""An independent auditor of ``report.json``: the schema to the letter, and every claim that can be checked.

`audit` reads a report and the ONNX file that it is about, and returns complaints, none for a sound report. It uses
ONNX, NumPy and the published schema only; a graph that it cannot evaluate raises `NotAuditableError`. With `Extrema`
(small networks) every verdict and bound is compared with the truth; `attacks` tries to disprove refutations and bounds
of larger networks by searching for inputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oracle.exact import Extrema
from oracle.graph import Graph, Pre
from oracle.plain import Region
from oracle.schema import SIDES, check_schema

Array = npt.NDArray[np.float64]
Report = dict[str, Any]


def audit_file(path: str | Path, onnx_path: str | Path, **options: Any) -> list[str]:
    """Audit a report as it stands in a file: strict JSON, then `audit`."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except ValueError as error:
        return [f"not a JSON file: {error}"]
    return audit(report, onnx_path, **options)


def audit(
    report: Report, onnx_path: str | Path, *, exact: Extrema | None = None, attack: int = 0, seed: int = 0
) -> list[str]:
    """Complaints about a report; ``attack`` is the number of rounds of `attacks` (0: none)."""
    complaints = _form(report, onnx_path)
    if complaints:
        return complaints  # what follows reads keys that may be missing
    complaints += _counts(report)
    data = Path(onnx_path).read_bytes()
    graph = Graph(data)
    regions = read_regions(report["domain"])
    complaints += _witnesses(report, data, graph, regions)
    if exact is not None:
        complaints += _against_truth(report, exact)
    if attack:
        complaints += attacks(report, graph, regions, rounds=attack, seed=seed)
    return complaints


def contract(report: Report, onnx_path: str | Path) -> list[str]:
    """What a report promises whatever the network: the schema, the right file, questions and counts that agree."""
    return _form(report, onnx_path) or list(_counts(report))


def _form(report: Report, onnx_path: str | Path) -> list[str]:
    complaints = list(check_schema(report))
    if complaints:
        return complaints
    data = Path(onnx_path).read_bytes()
    if report["network"]["sha256"] != hashlib.sha256(data).hexdigest():
        complaints.append("network.sha256 is not that of the file")
    complaints += _layers(report, Graph(data), read_regions(report["domain"]))
    return complaints or list(_questions(report))


def read_regions(domain: dict[str, Any]) -> list[Region]:
    """The parts of a domain as the report writes it."""
    if domain["kind"] == "union":
        return [region for part in domain["parts"] for region in read_regions(part)]
    rows = tuple(tuple(row) for row in domain.get("a", ()))
    return [Region(tuple(domain["lower"]), tuple(domain["upper"]), rows, tuple(domain.get("b", ())))]


def _layers(report: Report, graph: Graph, regions: Sequence[Region]) -> Iterator[str]:
    network = report["network"]
    if network["n_inputs"] != graph.n_inputs:
        yield f"network.n_inputs is {network['n_inputs']}, the file has {graph.n_inputs}"
    for number, region in enumerate(regions):
        if len(region.lower) != graph.n_inputs or len(region.upper) != graph.n_inputs:
            yield f"domain part {number} has the wrong dimension"
            return
        if any(low > high for low, high in zip(region.lower, region.upper, strict=True)):
            yield f"domain part {number} is empty"
    pre, output = graph.run(np.array([regions[0].lower]))
    if network["n_outputs"] != output.value.shape[1]:
        yield f"network.n_outputs is {network['n_outputs']}, the file has {output.value.shape[1]}"
    if len(pre) != len(network["layers"]):
        yield f"{len(network['layers'])} layers where the file has {len(pre)} ReLU nodes"
        return
    for k, (layer, node) in enumerate(zip(network["layers"], pre, strict=True)):
        shape = tuple(layer["shape"])
        fits = shape == node.shape if node.shape is not None else int(np.prod(shape)) == node.value.shape[1]
        if (layer["layer"], layer["size"], layer["origin"]) != (k, node.value.shape[1], node.operator) or not fits:
            yield f"network.layers[{k}] does not describe the file's: {node.operator} of {node.shape}"
    places = [(k, i) for k, node in enumerate(pre) for i in range(node.value.shape[1])]
    if [(n["layer"], n["neuron"]) for n in report["neurons"]] != places:
        yield "neurons are not all there, once each and in order"


def verdict_of(positive: str, negative: str) -> str:
    """The table of the design: states of the two questions to the verdict."""
    if positive == "refuted":
        return "stably_inactive"
    if negative == "refuted":
        return "stably_active"
    return "unstable" if positive == negative == "witnessed" else "unknown"


def _questions(report: Report) -> Iterator[str]:
    used: set[int] = set()
    for neuron in report["neurons"]:
        where = f"neuron {neuron['layer']}/{neuron['neuron']}"
        expected = verdict_of(*(neuron[side]["state"] for side in SIDES))
        if neuron["verdict"] != expected:
            yield f"{where}: verdict {neuron['verdict']} where its questions say {expected}"
        if neuron["lower"] is not None and neuron["upper"] is not None and not neuron["lower"] <= neuron["upper"]:
            yield f"{where}: lower exceeds upper"
        if report["status"] == "complete" and None in (neuron["lower"], neuron["upper"]):
            yield f"{where}: no bound in a complete report"
        for side in SIDES:
            number = neuron[side].get("witness")
            if number is not None:
                used.add(number)
                if not 0 <= number < len(report["witnesses"]):
                    yield f"{where}: witness {number} does not exist"
    for number in sorted(set(range(len(report["witnesses"]))) - used):
        yield f"witness {number} closes nothing"


def _counts(report: Report) -> Iterator[str]:
    counts = dict.fromkeys(("stably_active", "stably_inactive", "unstable", "unknown", "rigorous"), 0)
    waiting = 0
    for neuron in report["neurons"]:
        verdict = neuron["verdict"]
        counts[verdict] += 1
        decisive = {"stably_active": "negative", "stably_inactive": "positive"}.get(verdict)
        counts["rigorous"] += verdict == "unstable" or (decisive is not None and neuron[decisive]["rigorous"])
        if verdict == "unknown":
            waiting += sum(neuron[side]["state"] == "open" for side in SIDES)
    if counts != report["counts"]:
        yield f"counts are {report['counts']} where the neurons say {counts}"
    if (report["status"] == "complete") != (counts["unknown"] == 0):
        yield f"status {report['status']} with {counts['unknown']} unknown neurons"
    curve = report["curve"]
    seconds, open_ = [point[0] for point in curve], [point[1] for point in curve]
    if seconds != sorted(seconds):
        yield "the curve runs back in time"
    if open_ != sorted(open_, reverse=True) and not report.get("contradictions"):
        yield "the curve's open questions grow"
    if curve and open_[-1] != waiting:
        yield f"the curve ends at {open_[-1]} open questions where the neurons have {waiting}"
    if report["neurons"] and counts["unknown"] < len(report["neurons"]) and not curve:
        yield "questions were closed but the curve is empty"


def _witnesses(report: Report, data: bytes, graph: Graph, regions: Sequence[Region]) -> Iterator[str]:
    points = report["witnesses"]
    for number, point in enumerate(points):
        if len(point) != graph.n_inputs:
            yield f"witness {number} has {len(point)} coordinates where {graph.n_inputs} are expected"
            return
        if not any(region.contains(point) for region in regions):
            yield f"witness {number} is not in the domain"
    if not points:
        return
    pre = _passes(graph, np.array(points, dtype=np.float64))
    yield from _within_bounds(report, pre, "witness")
    doubtful = []
    for neuron, side, number in _witnessed(report):
        k, i = neuron["layer"], neuron["neuron"]
        sign = 1.0 if side == "positive" else -1.0
        value, error = sign * pre[k].value[number, i], pre[k].error[number, i]
        if value <= -error:
            yield f"neuron {k}/{i}: witness {number} does not show it {side}: {sign * value!r}"
        elif value <= error:
            doubtful.append((k, i, side, number, sign))
    if doubtful:  # closer than our own rounding in float64: the same again in a longer format
        longer = _passes(Graph(data, np.longdouble), np.array(points)[sorted({d[3] for d in doubtful})])
        row = {number: r for r, number in enumerate(sorted({d[3] for d in doubtful}))}
        for k, i, side, number, sign in doubtful:
            if not sign * longer[k].value[row[number], i] > longer[k].error[row[number], i]:
                yield f"neuron {k}/{i}: witness {number} does not show it {side} beyond rounding"


def _witnessed(report: Report) -> Iterator[tuple[dict[str, Any], str, int]]:
    for neuron in report["neurons"]:
        for side in SIDES:
            if neuron[side]["state"] == "witnessed":
                yield neuron, side, neuron[side]["witness"]


def _passes(graph: Graph, points: npt.NDArray[Any], chunk: int = 256) -> list[Pre]:
    """Forward passes of many points, in chunks."""
    runs = [graph.run(points[start : start + chunk])[0] for start in range(0, len(points), chunk)]
    return [
        Pre(
            parts[0].operator,
            parts[0].shape,
            np.concatenate([p.value for p in parts]),
            np.concatenate([p.error for p in parts]),
        )
        for parts in zip(*runs, strict=True)
    ]


def _bounds(report: Report, pre: Sequence[Pre]) -> Iterator[tuple[Array, Array]]:
    start = 0
    for node in pre:
        own = report["neurons"][start : start + node.value.shape[1]]
        start += len(own)
        yield (
            np.array([-np.inf if n["lower"] is None else n["lower"] for n in own]),
            np.array([np.inf if n["upper"] is None else n["upper"] for n in own]),
        )


def _within_bounds(report: Report, pre: Sequence[Pre], what: str) -> Iterator[str]:
    for k, (node, (lower, upper)) in enumerate(zip(pre, _bounds(report, pre), strict=True)):
        below = node.value + node.error < lower
        above = node.value - node.error > upper
        for i in np.flatnonzero((below | above).any(axis=0)):
            row = int(np.flatnonzero((below | above)[:, i])[0])
            value = node.value[row, i]
            yield f"neuron {k}/{i}: {what} {row} has {value!r}, outside its bounds {lower[i]!r}, {upper[i]!r}"


def _against_truth(report: Report, exact: Extrema) -> Iterator[str]:
    for neuron in report["neurons"]:
        k, i = neuron["layer"], neuron["neuron"]
        low, high = exact.minimum[k][i], exact.maximum[k][i]
        truth = f"neuron {k}/{i} has exact extrema {float(low)!r}, {float(high)!r}"
        for side, possible in (("positive", high > 0), ("negative", low < 0)):
            state = neuron[side]["state"]
            if state == ("refuted" if possible else "witnessed"):
                yield f"{truth}, but {side} is {state} by {neuron[side]['by']}"
        if neuron["lower"] is not None and Fraction(neuron["lower"]) > low:
            yield f"{truth}, but lower is {neuron['lower']!r}"
        if neuron["upper"] is not None and Fraction(neuron["upper"]) < high:
            yield f"{truth}, but upper is {neuron['upper']!r}"


def attacks(
    report: Report, graph: Graph, regions: Sequence[Region], *, rounds: int, seed: int = 0, targets: int = 8
) -> list[str]:
    """Look for inputs that disprove refutations or bounds: random points, vertices, then climbs without gradients.

    Each round climbs towards the ``targets`` refuted questions that came closest to being witnessed.
    """
    rng = np.random.default_rng(seed)
    attacker = _Attacker(report, graph, regions, rng)
    for number in range(len(regions)):
        if not attacker.try_points(attacker.spread(number, 192), number):
            break
    for _ in range(rounds):
        for question in attacker.closest(targets):
            attacker.climb(question)
    return attacker.complaints


class _Attacker:
    def __init__(self, report: Report, graph: Graph, regions: Sequence[Region], rng: np.random.Generator) -> None:
        self.report, self.graph, self.regions, self.rng = report, graph, regions, rng
        self.refuted = np.array([[n[side]["state"] == "refuted" for n in report["neurons"]] for side in SIDES])
        self.best = np.full(self.refuted.shape, -np.inf)  # of the value times the side's sign
        self.start: list[list[tuple[int, Array] | None]] = [[None] * self.refuted.shape[1] for _ in SIDES]
        self.complaints: list[str] = []
        self.told: set[tuple[int, int]] = set()

    def spread(self, part: int, count: int) -> Array:
        """Uniform points, vertices, mixtures of both, and what witnesses lie here."""
        region = self.regions[part]
        low, high = np.array(region.lower), np.array(region.upper)
        inner = low + self.rng.random((count, len(low))) * (high - low)
        corner = np.where(self.rng.random((count, len(low))) < self.rng.random((count, 1)), high, low)
        mixed = np.where(self.rng.random((count, len(low))) < 0.5, inner, corner)
        witnesses = [p for p in self.report["witnesses"] if region.contains(p)]
        points = np.concatenate([np.array([low, high, 0.5 * low + 0.5 * high]), inner, corner, mixed])
        return self._inside(np.concatenate([points, np.array(witnesses)]) if witnesses else points, part)

    def _inside(self, points: Array, part: int) -> Array:
        region = self.regions[part]
        points = np.clip(points, region.lower, region.upper)
        if not region.a:
            return points
        return points[[region.contains(point) for point in points.tolist()]]

    def try_points(self, points: Array, part: int) -> bool:
        """Check everything at the points and remember the best for each refuted question."""
        if not len(points):
            return False
        pre = _passes(self.graph, points)
        for complaint in _within_bounds(self.report, pre, "an input, number"):
            self.complaints.append(f"{complaint} (attack)")
        value = np.concatenate([node.value for node in pre], axis=1)
        error = np.concatenate([node.error for node in pre], axis=1)
        for side, sign in enumerate((1.0, -1.0)):
            signed = sign * value
            row = signed.argmax(axis=0)
            top = signed[row, np.arange(signed.shape[1])]
            for i in np.flatnonzero(self.refuted[side] & (top > self.best[side])):
                self.best[side, i], self.start[side][i] = top[i], (part, points[row[i]])
            for i in np.flatnonzero(self.refuted[side] & (signed > error).any(axis=0)):
                if (side, int(i)) not in self.told:
                    self.told.add((side, int(i)))
                    neuron = self.report["neurons"][i]
                    self.complaints.append(
                        f"neuron {neuron['layer']}/{neuron['neuron']}: {SIDES[side]} is refuted by "
                        f"{neuron[SIDES[side]]['by']} but an input has {sign * top[i]!r} (attack)"
                    )
        return True

    def closest(self, count: int) -> list[tuple[int, int]]:
        """The refuted questions whose best value is largest, by the width of their bounds."""
        width = np.array([(n["upper"] or 0.0) - (n["lower"] or 0.0) for n in self.report["neurons"]])
        score = np.where(self.refuted & np.isfinite(self.best), self.best / (1e-12 + np.abs(width)), -np.inf)
        order = np.argsort(score, axis=None)[::-1][:count]
        places = [np.unravel_index(o, score.shape) for o in order]
        return [(int(side), int(i)) for side, i in places if np.isfinite(score[side, i])]

    def climb(self, question: tuple[int, int], count: int = 64) -> None:
        """Move some coordinates of the best point to a bound, to a random place, or a little."""
        side, i = question
        begin = self.start[side][i]
        if begin is None:
            return
        part, point = begin
        low, high = np.array(self.regions[part].lower), np.array(self.regions[part].upper)
        share = 2.0 ** -self.rng.integers(0, 8, size=(count, 1))
        chosen = self.rng.random((count, len(low))) < np.maximum(share, 1.0 / len(low))
        corner = np.where(self.rng.random((count, len(low))) < 0.5, low, high)
        step = 10.0 ** self.rng.uniform(-5, 0, size=(count, 1))
        little = point + step * (high - low) * self.rng.normal(size=(count, len(low)))
        moved = np.where(self.rng.random((count, 1)) < 0.5, corner, little)
        self.try_points(self._inside(np.where(chosen, moved, point), part), part)
