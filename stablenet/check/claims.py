"""What a report claims, held against what is proven: refutations against bounds, witnesses by running the network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.check.arithmetic import Array, ExactMatrix
from stablenet.check.duality import Boxes, Map
from stablenet.check.replay import PartState, replay
from stablenet.core.errors import DomainError, ReportError
from stablenet.core.network import Network
from stablenet.domain.regions import Domain, Part, domain_from_json

SCHEMA = "stablenet.report/1"
SIDES = {"positive": 1, "negative": -1}
VERDICTS = ("stably_active", "stably_inactive", "unstable", "unknown")
POINTS = 128
"""Witnesses that are replayed together."""


@dataclass
class Result:
    """``problems`` are claims that do not hold, one line each; ``verdicts`` counts those that do, by what shows them;
    ``unproven`` counts verdicts that claim no proof, ``open`` those that are unknown.
    """

    problems: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)
    unproven: int = 0
    open: int = 0
    witnesses: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "holds": not self.problems,
            "problems": self.problems,
            "verdicts": dict(self.verdicts),
            "by": dict(self.by),
            "without_proof": self.unproven,
            "unknown": self.open,
            "witnesses": self.witnesses,
        }


def check(
    network: Network, report: str | Path, proof: str | Path | None = None, *, domain: Domain | None = None
) -> Result:
    """Check a report and a proof file against a network, and against a domain if one is given.

    Without a proof nothing is proven but what bounds by intervals prove. Raises `ReportError`
    or `ProofError` where a file is malformed or about something else.
    """
    data = read_report(report)
    if data["network"].get("sha256") != network.sha256 or not network.sha256:
        raise ReportError("the report is about another network")
    try:
        region = domain_from_json(data["domain"])
    except DomainError as error:
        raise ReportError(f"domain of the report: {error}") from None
    if region.n_inputs != network.n_inputs or (domain is not None and domain.digest != region.digest):
        raise ReportError("the report is about another domain")
    try:
        states = replay(proof, network, region)
        result = Result()
        _Claims(network, region, states, data, result).run()
    except OverflowError as error:
        raise ReportError(f"numbers beyond the checker's range: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, ReportError | DomainError) or hasattr(error, "exit_code"):
            raise
        raise ReportError(f"the report is malformed ({type(error).__name__}: {error})") from None
    return result


def read_report(path: str | Path) -> dict[str, Any]:
    """The JSON object of a report."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: not a JSON file ({type(error).__name__})") from None
    expected = {"network": dict, "domain": dict, "neurons": list, "witnesses": list, "counts": dict}
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ReportError(f"{path}: not a report of schema {SCHEMA!r}")
    for key, kind in expected.items():
        if not isinstance(data.get(key), kind):
            raise ReportError(f"{path}: {key!r} is missing or of the wrong type")
    return data


class _Claims:
    """The claims of one report."""

    def __init__(
        self, network: Network, domain: Domain, states: Sequence[PartState], data: dict[str, Any], result: Result
    ) -> None:
        self.network, self.domain, self.states, self.result = network, domain, states, result
        self.neurons, self.counts = data["neurons"], data["counts"]
        self.points = data["witnesses"]
        self.signs: dict[int, npt.NDArray[np.int8]] = {}
        self.offsets = np.cumsum([0, *(layer.size for layer in network.layers)])

    def run(self) -> None:
        """Check all claims."""
        self._replay_witnesses()
        seen = set()
        rigorous = 0
        totals: Counter[str] = Counter()
        for entry in self.neurons:
            layer, neuron = entry["layer"], entry["neuron"]
            if not (_whole(layer, len(self.network.layers)) and _whole(neuron, self.network.layers[layer].size)):
                self.result.problems.append(f"the report speaks of layer {layer!r}, neuron {neuron!r}: there is none")
                continue
            if (layer, neuron) in seen:
                self.result.problems.append(f"layer {layer}, neuron {neuron} is there twice")
            seen.add((layer, neuron))
            totals[entry["verdict"]] += 1
            rigorous += self._neuron(entry, layer, neuron)
        if len(seen) < self.network.n_neurons:
            self.result.problems.append(f"{self.network.n_neurons - len(seen)} neurons are not in the report")
        for what, count in (*((name, totals[name]) for name in VERDICTS), ("rigorous", rigorous)):
            if self.counts.get(what) != count:
                self.result.problems.append(f"the report counts {self.counts.get(what)} {what}, its neurons {count}")

    def _neuron(self, entry: dict[str, Any], layer: int, neuron: int) -> bool:
        """Check one neuron; whether its verdict claims to be rigorous."""
        where = f"layer {layer}, neuron {neuron}"
        before = len(self.result.problems)
        states = {side: self._question(entry[side], layer, neuron, side, where) for side in SIDES}
        verdict = _verdict(entry["positive"]["state"], entry["negative"]["state"])
        if entry["verdict"] != verdict:
            self.result.problems.append(f"{where}: {entry['verdict']!r} where its questions say {verdict!r}")
        if len(self.result.problems) > before:
            return verdict == "unstable" or "rigorous" in states.values()
        if verdict == "unknown":
            self.result.open += 1
            return False
        side = "positive" if verdict == "stably_inactive" else "negative"
        if verdict != "unstable" and states[side] != "rigorous":
            self.result.unproven += 1
            return False
        self.result.verdicts[verdict] += 1
        if verdict == "unstable":
            self.result.by["witnesses"] += 1
        else:
            methods = {state.by.get((layer, neuron, SIDES[side]), "interval") for state in self.states}
            self.result.by["+".join(sorted(methods))] += 1
        return True

    def _question(self, claim: dict[str, Any], layer: int, neuron: int, side: str, where: str) -> str:
        """Check one question; its state, and ``rigorous`` for a refutation that claims to be."""
        match claim["state"]:
            case "witnessed":
                signs = self.signs.get(claim["witness"]) if _whole(claim["witness"], len(self.points)) else None
                if signs is None or signs[self.offsets[layer] + neuron] != SIDES[side]:
                    self.result.problems.append(
                        f"{where}: witness {claim['witness']!r} does not show that it can be {side}"
                    )
                return "witnessed"
            case "refuted" if claim["rigorous"] is True:
                for state in self.states:
                    bound = state.upper[layer][neuron] if side == "positive" else -state.lower[layer][neuron]
                    if not bound <= 0:
                        part = f" on part {state.number}" if len(self.states) > 1 else ""
                        self.result.problems.append(
                            f"{where}: that it cannot be {side} is not proven{part} (by {bound:.3g})"
                        )
                        break
                return "rigorous"
            case "refuted" if claim["rigorous"] is False:
                return "refuted"
            case "open":
                return "open"
            case state:
                raise ReportError(f"{where}: a question of state {state!r}")

    def _replay_witnesses(self) -> None:
        """The certain signs of all pre-activations at the witnesses that lie in the domain."""
        n = self.network.n_inputs
        for number, point in enumerate(self.points):
            if not (isinstance(point, list) and len(point) == n and all(_number(x) for x in point)):
                raise ReportError(f"witness {number} is not a list of {n} finite numbers")
        points = np.array(self.points, np.float64).reshape(-1, n)
        inside = np.zeros(len(points), bool)
        for part in self.domain.parts:
            inside |= _holds(part, points)
        for number in np.flatnonzero(~inside).tolist():
            self.result.problems.append(f"witness {number} lies outside of the domain")
        maps = self.states[0].maps
        for start in range(0, len(points), POINTS):
            signs = _signs(maps, self.states[0].part, points[start : start + POINTS])
            for number, row in enumerate(signs, start):
                if inside[number]:
                    self.signs[number] = row
        self.result.witnesses = len(self.signs)
        self._doubtful(points)

    def _doubtful(self, points: Array) -> None:
        """Signs that intervals leave open at a witness which is said to show them, in rational numbers."""
        asked: dict[int, list[int]] = {}
        for entry in self.neurons:
            for side in SIDES:
                number = entry[side].get("witness")
                if entry[side]["state"] != "witnessed" or not _whole(number, len(points)) or number not in self.signs:
                    continue
                if not (_whole(entry["layer"], len(self.offsets) - 1) and isinstance(entry["neuron"], int)):
                    continue
                flat = int(self.offsets[entry["layer"]]) + entry["neuron"]
                if 0 <= flat < self.offsets[-1] and self.signs[number][flat] == 0:
                    asked.setdefault(number, []).append(flat)
        for number, neurons in asked.items():
            exact = _exact_signs(self.network, points[number])
            self.signs[number][neurons] = exact[neurons]


def _verdict(positive: str, negative: str) -> str:
    if positive == "refuted":
        return "stably_inactive"
    if negative == "refuted":
        return "stably_active"
    return "unstable" if positive == negative == "witnessed" else "unknown"


def _whole(value: Any, below: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _holds(part: Part, points: Array) -> npt.NDArray[np.bool_]:
    """Which points, (batch, n), lie in a part, exactly."""
    inside = np.asarray(((points >= part.lower) & (points <= part.upper)).all(axis=1))
    if part.a is None or part.b is None or not len(points):
        return inside
    rows = ExactMatrix(part.a, -part.b).forward(points)
    sure = rows.value + rows.error <= 0
    for i, row in np.argwhere(inside[:, None] & ~sure):
        total = sum(
            (Fraction(a) * Fraction(x) for a, x in zip(part.a[row].tolist(), points[i].tolist(), strict=True)),
            Fraction(),
        )
        sure[i, row] = total <= Fraction(float(part.b[row]))
    return inside & sure.all(axis=1)


def _signs(maps: Sequence[Map], part: Part, points: Array) -> npt.NDArray[np.int8]:
    """Signs of all pre-activations at points that are certain by intervals, (batch, neurons); 0 where they are not."""
    boxes = Boxes(maps, points, points, part)
    found = []
    for layer in range(len(maps)):
        lower, upper = boxes.interval(layer)
        found.append((lower > 0).astype(np.int8) - (upper < 0).astype(np.int8))
        boxes.push(lower, upper)
    return np.concatenate(found, axis=1) if found else np.zeros((len(points), 0), np.int8)


def _exact_signs(network: Network, point: Array) -> npt.NDArray[np.int8]:
    """Signs of all pre-activations at a point, in rational numbers."""
    posts = [[Fraction(x) for x in point.tolist()]]
    signs: list[int] = []
    for layer in network.layers:
        values = [Fraction(b) for b in layer.affine.offset.tolist()]
        for term in layer.affine.terms:
            matrix = sparse.coo_array(term.matrix)
            for row, column, weight in zip(matrix.row.tolist(), matrix.col.tolist(), matrix.data.tolist(), strict=True):
                if post := posts[term.source][column]:
                    values[row] += Fraction(weight) * post
        signs += [(v > 0) - (v < 0) for v in values]
        posts.append([max(v, Fraction()) for v in values])
    return np.array(signs, np.int8)
