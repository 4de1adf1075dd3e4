"""The claims of a report compared with proofs: refutations with bounds, witnesses by running the network."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.check.arithmetic import Array, ExactMatrix
from stablenet.check.duality import Boxes
from stablenet.check.rational import exact_signs
from stablenet.check.replay import PartState, replay
from stablenet.core.errors import ReportError
from stablenet.core.network import Network
from stablenet.core.proof_records import ProofError
from stablenet.domain.regions import Domain, Part, domain_from_json

SIDES = {"positive": 1, "negative": -1}
COUNTED = ("stably_active", "stably_inactive", "unstable", "unknown", "rigorous")


@dataclass
class Result:
    """``problems`` are claims that do not hold, one line each; ``verdicts`` and ``by`` count the verdicts that do, and
    what shows them; ``unproven`` counts verdicts that claim no proof, ``unknown`` those that are none.
    """

    problems: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)
    unproven: int = 0
    unknown: int = 0
    witnesses: int = 0


def check(network: Network, report: str | Path, proof: str | Path, *, domain: Domain | None = None) -> Result:
    """Check a report and a proof file against a network, and against a domain if one is given.

    Raises `ReportError` or `ProofError` where a file is malformed or about something else.
    """
    try:
        data = json.loads(Path(report).read_text(encoding="utf-8"))
        about = data["schema"], data["network"]["sha256"], data["config"].get("arithmetic", "real")
        if about != ("stablenet.report/1", network.identity, "real"):
            raise ReportError(f"{report}: not a report about this network in real arithmetic")
        region = domain_from_json(data["domain"])
        if region.n_inputs != network.n_inputs or (domain is not None and domain.digest != region.digest):
            raise ReportError(f"{report}: about another domain")
        return _Claims(network, region, replay(proof, network, region), data).run()
    except OSError as error:
        raise ReportError(f"{report}: cannot be read ({error.strerror})") from None
    except (ReportError, ProofError):
        raise
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError, RecursionError) as error:
        raise ReportError(f"{report}: not a report to be checked ({type(error).__name__}: {error})") from None


class _Claims:
    """The claims of one report."""

    def __init__(self, network: Network, domain: Domain, states: list[PartState], data: dict[str, Any]) -> None:
        self.network, self.domain, self.states, self.result = network, domain, states, Result()
        self.neurons, self.counts, self.witnesses = data["neurons"], data["counts"], data["witnesses"]
        self.sizes = [layer.size for layer in network.layers]
        self.offsets = np.cumsum([0, *self.sizes])

    def run(self) -> Result:
        """Check all claims."""
        problems = self.result.problems
        self.points = np.array(self.witnesses, np.float64).reshape(len(self.witnesses), self.network.n_inputs)
        self.inside = _inside(self.domain.parts, self.points)
        problems += [f"witness {number} lies outside of the domain" for number in np.flatnonzero(~self.inside)]
        self.signs = self._signs()
        self.result.witnesses = int(self.inside.sum())
        seen: Counter[tuple[int, int]] = Counter()
        claimed: Counter[str] = Counter()
        for entry in self.neurons:
            layer, neuron = entry["layer"], entry["neuron"]
            if not (_whole(layer, len(self.sizes)) and _whole(neuron, self.sizes[layer])):
                raise ReportError(f"the report speaks of layer {layer!r}, neuron {neuron!r}, which there is not")
            seen[layer, neuron] += 1
            claimed.update([entry["verdict"], *(["rigorous"] if self._neuron(entry, layer, neuron) else [])])
        problems += [f"layer {layer}, neuron {neuron} is there twice" for (layer, neuron), n in seen.items() if n > 1]
        if len(seen) < self.offsets[-1]:
            problems.append(f"{self.offsets[-1] - len(seen)} neurons are missing")
        for what in COUNTED:
            if self.counts[what] != claimed[what]:
                problems.append(f"the report counts {self.counts[what]} {what}, its neurons {claimed[what]}")
        return self.result

    def _neuron(self, entry: dict[str, Any], layer: int, neuron: int) -> bool:
        """Check one neuron; whether its verdict claims to be rigorous."""
        result, where = self.result, f"layer {layer}, neuron {neuron}"
        before = len(result.problems)
        states = {side: self._question(entry[side], layer, neuron, side) for side in SIDES}
        side = next((side for side, state in states.items() if state not in {"witnessed", "open"}), None)
        verdict = "unstable" if set(states.values()) == {"witnessed"} else "unknown"
        if side is not None:
            verdict = "stably_inactive" if side == "positive" else "stably_active"
        rigorous = verdict == "unstable" or (side is not None and states[side] == "rigorous")
        if entry["verdict"] != verdict:
            result.problems.append(f"{where}: {entry['verdict']!r} where its questions say {verdict!r}")
        if len(result.problems) == before:
            result.unknown += verdict == "unknown"
            result.unproven += side is not None and not rigorous
        if len(result.problems) == before and rigorous:
            result.verdicts[verdict] += 1
            methods = {state.by[layer, neuron, SIDES[side]] for state in self.states} if side else {"witnesses"}
            result.by["+".join(sorted(methods))] += 1
        return rigorous

    def _question(self, claim: dict[str, Any], layer: int, neuron: int, side: str) -> str:
        """Check one question; its state, ``rigorous`` for a refutation that claims to be."""
        where, sign = f"layer {layer}, neuron {neuron}", SIDES[side]
        match claim["state"], claim.get("rigorous"):
            case "witnessed", _:
                number = claim["witness"]
                if not _whole(number, len(self.points)) or not self._shows(number, layer, neuron, sign):
                    self.result.problems.append(f"{where}: witness {number!r} does not show that it can be {side}")
                return "witnessed"
            case "refuted", True:
                for state in self.states:
                    bound = (state.upper if sign > 0 else state.lower)[layer][neuron]
                    if not sign * bound <= 0:
                        place = f"{where}: that it cannot be {side} is not proven on part {state.number}"
                        self.result.problems.append(f"{place} (bound {bound:.3g})")
                return "rigorous"
            case ("refuted", False) | ("open", _):
                return str(claim["state"])
        raise ReportError(f"{where}: a question that is neither open, witnessed nor refuted")

    def _signs(self) -> npt.NDArray[np.int8]:
        """Signs of all pre-activations at the witnesses that are certain by intervals; 0 where they are not."""
        boxes = Boxes(self.states[0].maps, self.points, self.points, self.domain.parts[0])
        for k in range(len(self.sizes)):
            boxes.ends.append(boxes.interval(k))
        none = np.zeros((len(self.points), 0))
        lower, upper = (np.concatenate([none, *end], axis=1) for end in zip(*boxes.ends[1:], strict=True))
        return np.asarray((lower > 0).astype(np.int8) - (upper < 0).astype(np.int8))

    def _shows(self, number: int, layer: int, neuron: int, sign: int) -> bool:
        """Whether a witness in the domain gives a pre-activation this sign; in rational numbers if need be."""
        at = int(self.offsets[layer]) + neuron
        if self.signs[number, at] == 0:
            self.signs[number] = exact_signs(self.network, self.points[number])
        return bool(self.inside[number] and self.signs[number, at] == sign)


def _whole(value: Any, below: int) -> bool:
    return type(value) is int and 0 <= value < below


def _inside(parts: tuple[Part, ...], points: Array) -> npt.NDArray[np.bool_]:
    """Which points, (batch, n), lie in some part, exactly."""
    found = np.zeros(len(points), bool)
    for part in parts:
        inside = np.asarray(((points >= part.lower) & (points <= part.upper)).all(axis=1))
        if part.a is not None and part.b is not None and inside.any():
            rows = ExactMatrix(part.a, -part.b).forward(points)
            sure = rows.value + rows.error <= 0
            for i, row in np.argwhere(inside[:, None] & ~sure):
                numbers = zip(part.a[row].tolist(), points[i].tolist(), strict=True)
                sure[i, row] = sum(Fraction(a) * Fraction(x) for a, x in numbers) <= Fraction(part.b[row])
            inside &= sure.all(axis=1)
        found |= inside
    return found
