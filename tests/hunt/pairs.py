"""Campaign: pairs of networks for ``verify``, equal or differing at one vertex, against exact enumeration."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from oracle.exact import extrema
from oracle.plain import PlainMap, PlainNetwork, Region

from hunt.campaign import Campaign, Job, Outcome, Random
from hunt.networks import Array, Layers, dense, ends, plain, polytope
from hunt.product import domain_of, judge_run, judge_scratch, parts, run, write_vnnlib
from hunt.truth import network_from_json, network_to_json, region_from_json, region_to_json
from hunt.verdicts import pick

STEPS = ("bounds", "gradient", "split", "stable", "milp")


def difference(a: PlainNetwork, b: PlainNetwork) -> PlainNetwork:
    """``A - B`` of two networks of the same depth, as one network with the neurons of both side by side."""

    def joined(first: PlainMap, second: PlainMap) -> PlainMap:
        terms = []
        for source in sorted({s for s, _ in (*first.terms, *second.terms)}):
            left, right = dict(first.terms).get(source), dict(second.terms).get(source)
            width_a, width_b = (a.n_inputs, a.n_inputs) if source == 0 else sizes[source - 1]
            zero_a, zero_b = (Fraction(0),) * width_a, (Fraction(0),) * width_b
            above = left or (zero_a,) * len(first.offset)
            below = right or (zero_b,) * len(second.offset)
            if source == 0:
                rows = (*above, *below)
            else:
                rows = (*((*row, *zero_b) for row in above), *((*zero_a, *row) for row in below))
            terms.append((source, rows))
        return PlainMap((*first.offset, *second.offset), tuple(terms))

    sizes = [(len(x.offset), len(y.offset)) for x, y in zip(a.layers, b.layers, strict=True)]
    layers = tuple(joined(x, y) for x, y in zip(a.layers, b.layers, strict=True))
    both = joined(a.output, b.output)
    m = len(a.output.offset)
    output = PlainMap(
        tuple(both.offset[i] - both.offset[m + i] for i in range(m)),
        tuple(
            (s, tuple(tuple(p - q for p, q in zip(rows[i], rows[m + i], strict=True)) for i in range(m)))
            for s, rows in both.terms
        ),
    )
    return PlainNetwork(a.n_inputs, layers, output)


def _random(rng: Random) -> tuple[Layers, int]:
    n = int(rng.integers(1, 4))
    sizes = [n, *rng.integers(2, 6 if n < 3 else 5, size=rng.integers(1, 3)).tolist(), int(rng.integers(1, 3))]
    if rng.random() < 0.5:
        return [(rng.normal(size=(m, k)), rng.normal(size=m) * 0.5) for k, m in itertools.pairwise(sizes)], n
    return [
        (rng.integers(-4, 5, size=(m, k)) / 2.0, rng.integers(-4, 5, size=m) / 2.0)
        for k, m in itertools.pairwise(sizes)
    ], n


def _rescaled(rng: Random, layers: Layers) -> Layers:
    """Neurons in another order, each scaled by c > 0 and taken back by 1/c: the same function but for rounding."""
    layers = [(w.copy(), b.copy()) for w, b in layers]
    for k in range(len(layers) - 1):
        (weight, bias), (after, last) = layers[k], layers[k + 1]
        order = rng.permutation(len(weight))
        kind = rng.random()
        factor = np.ones(len(weight))
        if kind < 0.4:
            factor = np.ldexp(1.0, rng.integers(-20, 21, size=len(weight)))
        elif kind < 0.8:
            factor = 10.0 ** rng.uniform(-6, 6, size=len(weight))
        layers[k] = (weight[order] * factor[:, None], bias[order] * factor)
        layers[k + 1] = (after[:, order] / factor, last)
    return layers


def _parted(rng: Random, layers: Layers) -> Layers:
    """A neuron in two halves, and one that is dead: the same function."""
    layers = [(w.copy(), b.copy()) for w, b in layers]
    (weight, bias), (after, last) = layers[0], layers[1]
    i = int(rng.integers(len(weight)))
    dead = np.zeros((1, weight.shape[1]))
    column = after[:, [i]] / 2
    after = np.hstack([after, column, rng.normal(size=(len(after), 1))])
    after[:, [i]] = column
    layers[0] = (np.vstack([weight, weight[[i]], dead]), np.append(bias, [bias[i], -float(rng.integers(0, 2))]))
    layers[1] = (after, last)
    return layers


def _spiked(rng: Random, layers: Layers, box: Array) -> Layers:
    """One more neuron that is active near one vertex of the box only, led to the output past what is there."""
    layers = [(w.copy(), b.copy()) for w, b in layers]
    corner = rng.integers(0, 2, size=box.shape[1])
    vertex = np.where(corner == 1, box[1], box[0])
    signs = np.where(corner == 1, 1.0, -1.0)
    steep = float(2.0 ** rng.integers(-4, 21))
    reach = float(2.0 ** -rng.integers(1, 20))
    row, offset = steep * signs, -steep * (float(signs @ vertex) - reach)
    height = float(10.0 ** rng.uniform(-7, 0.5)) / (steep * reach)
    for k in range(len(layers)):
        weight, bias = layers[k]
        if k == 0:
            weight, bias = np.vstack([weight, row]), np.append(bias, offset)
        elif k < len(layers) - 1:
            weight = np.pad(weight, ((0, 1), (0, 1)))
            weight[-1, -1] = 1.0
            bias = np.append(bias, 0.0)
        else:
            column = np.zeros((len(weight), 1))
            column[rng.integers(len(weight))] = height * rng.choice([-1.0, 1.0])
            weight = np.hstack([weight, column])
        layers[k] = (weight, bias)
    return layers


def _nudged(rng: Random, layers: Layers) -> Layers:
    """One number is another: by an ulp, or by up to a tenth."""
    layers = [(w.copy(), b.copy()) for w, b in layers]
    weight, bias = layers[rng.integers(len(layers))]
    target = weight if rng.random() < 0.5 else bias
    place = tuple(rng.integers(s) for s in target.shape)
    old = target[place]
    target[place] = np.nextafter(old, np.inf) if rng.random() < 0.2 else old + 10.0 ** rng.uniform(-12, -1)
    return layers


def judge_verification(  # noqa: PLR0917
    said: dict[str, Any],
    a: PlainNetwork,
    b: PlainNetwork,
    domain: Sequence[Region],
    largest: Fraction,
    outcome: Outcome,
) -> None:
    """Compare an answer of ``verify`` with the exact largest difference."""
    outcome.counts[said["outcome"]] += 1
    outcome.counts["questions"] += 1
    outcome.counts["verdicts"] += said["outcome"] != "undecided"
    outcome.counts["unknown"] += said["outcome"] == "undecided"
    tolerance = Fraction(said["tolerance"])
    proof = "rigorous" if said["rigorous"] else "not rigorous"
    if said["outcome"] == "equal" and largest > tolerance:
        outcome.add(
            "WRONG", f"equal within {said['tolerance']!r} ({proof}, {said['by']}); they differ by {float(largest)!r}"
        )
    if said["outcome"] == "different" and largest <= tolerance:
        outcome.add(
            "WRONG", f"different by more than {said['tolerance']!r}; the largest difference is {float(largest)!r}"
        )
    if said["bound"] is not None and Fraction(said["bound"]) < largest:
        outcome.add("WRONG", f"bound {said['bound']!r} ({proof}, {said['by']}); they differ by {float(largest)!r}")
    shown = said["counterexample"]
    if shown is None:
        if said["outcome"] == "different":
            outcome.add("CONTRACT", "different, and no counterexample")
        return
    if not any(region.contains(shown["input"]) for region in domain):
        outcome.add("WRONG", f"the counterexample {shown['input']} is not in the domain")
    outputs = a.forward(shown["input"])[1], b.forward(shown["input"])[1]
    real = abs(outputs[0][shown["output"]] - outputs[1][shown["output"]])
    if real < Fraction(shown["difference"]):
        outcome.add("WRONG", f"the counterexample shows {float(real)!r}, not {shown['difference']!r}")
    if said["outcome"] == "different" and real <= tolerance:
        outcome.add(
            "WRONG", f"different by more than {said['tolerance']!r}, and the counterexample shows {float(real)!r}"
        )
    if said["bound"] is not None and Fraction(said["bound"]) < Fraction(shown["difference"]):
        outcome.add("CONTRACT", f"bound {said['bound']!r} below the difference {shown['difference']!r} beside it")


class Pairs(Campaign):
    """``verify`` on networks that are equal, nearly equal, or equal but at one vertex."""

    name = "pairs"
    title = "verify: equal and unequal pairs against exact enumeration"
    share = 2.0

    def make(self, rng: Random, folder: Path) -> Job:
        first, n = _random(rng)
        box = ends(rng, n)
        domain = (Region(tuple(box[0].tolist()), tuple(box[1].tolist())),)
        if n > 1 and rng.random() < 0.2:
            domain = (polytope(rng, n),)
            box = np.array([domain[0].lower, domain[0].upper])
        kind = pick(rng, ["equal", "vertex", "vertex", "nudged"])
        second = {
            "equal": lambda: first,
            "vertex": lambda: _spiked(rng, first, box),
            "nudged": lambda: _nudged(rng, first),
        }[kind]()
        if rng.random() < 0.4:
            second = _parted(rng, second)
        if rng.random() < 0.7:
            second = _rescaled(rng, second)
        if rng.random() < 0.3:
            first, second = second, first
        networks = []
        for name, layers in (("a.onnx", first), ("b.onnx", second)):
            builder, tensor = dense(layers, n)
            (folder / name).write_bytes(builder.finish(tensor)[0])
            networks.append(plain(layers, n))
        write_vnnlib(folder / "domain.vnnlib", domain)
        found = extrema(difference(*networks), domain, outputs=True)
        largest = max((abs(v) for v in (*found.minimum[-1], *found.maximum[-1])), default=Fraction(0))
        tolerance = (
            1e-5 if rng.random() < 0.4 or not largest else float(largest) * float(pick(rng, [0.5, 0.99, 1.01, 2.0]))
        )
        options: dict[str, Any] = {
            "tolerance": max(tolerance, 0.0),
            "solver": pick(rng, [s for s in parts("solvers") if not s.startswith("pyomo")]),
            "formulation": "bigm" if rng.random() < 0.6 else pick(rng, parts("formulations")),
            "time_limit": 6.0,
            "seed": int(rng.integers(1000)),
            "threads": 1,
        }
        if rng.random() < 0.6:
            options["steps"] = ",".join(s for s in STEPS if rng.random() < (0.8 if s == "milp" else 0.4)) or "milp"
        flags = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        words = ["verify", "a.onnx", "b.onnx", "--domain", "domain.vnnlib", *flags, "--json"]
        return {
            "kind": kind,
            "options": options,
            "command": words,
            "shell": f"stablenet {shlex.join(words)}",
            "through": "command line" if rng.random() < 0.05 else "python",
            "truth": {
                "a": network_to_json(networks[0]),
                "b": network_to_json(networks[1]),
                "regions": [region_to_json(region) for region in domain],
                "largest": str(largest),
                "at": _where(found, largest),
            },
        }

    def check(self, job: Job, folder: Path, outcome: Outcome) -> None:
        truth = job["truth"]
        domain = [region_from_json(region) for region in truth["regions"]]
        said = (
            self._command(job, folder, outcome)
            if job["through"] == "command line"
            else self._call(job, folder, domain, outcome)
        )
        if said is not None:
            a, b = network_from_json(truth["a"]), network_from_json(truth["b"])
            judge_verification(said, a, b, domain, Fraction(truth["largest"]), outcome)

    def _command(self, job: Job, folder: Path, outcome: Outcome) -> dict[str, Any] | None:
        ended = run(job["command"], folder)
        judge_run(ended, outcome)
        judge_scratch(folder, outcome)
        outcome.counts["refused"] += ended.code == 2
        if not ended.output.strip():
            return None
        said = json.loads(ended.output)
        if ended.code != {"equal": 0, "different": 4, "undecided": 3}[said["outcome"]]:
            outcome.add("CONTRACT", f"exit code {ended.code} where the answer is {said['outcome']}")
        return dict(said)

    def _call(self, job: Job, folder: Path, domain: list[Region], outcome: Outcome) -> dict[str, Any] | None:
        from stablenet import verify
        from stablenet.core.errors import StablenetError

        options = dict(job["options"])
        if "steps" in options:
            options["steps"] = options["steps"].split(",")
        try:
            found = verify(folder / "a.onnx", folder / "b.onnx", domain_of(domain), **options)
        except StablenetError as error:
            outcome.counts["refused" if error.exit_code == 2 else "solver failures"] += 1
            if error.exit_code == 4:
                outcome.add("CONTRADICTION", str(error))
            return None
        outcome.counts["solver failures"] += bool(found.notes)
        return json.loads(json.dumps(found.to_json()))


def _where(found: Any, largest: Fraction) -> list[str]:
    both = [
        *zip(found.minimum[-1], found.argmin[-1], strict=True),
        *zip(found.maximum[-1], found.argmax[-1], strict=True),
    ]
    return next(([str(v) for v in point] for value, point in both if abs(value) == largest), [])
