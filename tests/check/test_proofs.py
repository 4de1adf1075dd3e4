"""The checker of proofs against brute force: real proofs are accepted, none that is changed or invented shows a lie.

Whatever a proof file says, each bound that its replay comes to must hold for the exact extrema of all pre-activations;
and whatever a report says, one that is accepted must have true verdicts only.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.exact import Extrema, extrema
from oracle.networks import Case, case
from oracle.plain import Region

from stablenet import Box, Polytope, Union, find_stable, load_onnx
from stablenet.check.arithmetic import CHOSEN, ExactMatrix, Slices, row_sum, sum_up
from stablenet.check.claims import check
from stablenet.check.replay import covers, replay
from stablenet.core.errors import InputError, ReportError
from stablenet.core.proof_records import MAGIC, ProofError, Record, read_records
from stablenet.core.proofs import ProofLog
from stablenet.testing.suite import slowness

SEEDS = range(36)
METHODS: dict[str, dict[str, Any]] = {
    "interval": {"bounds": "interval", "search": "off"},
    "crown": {"bounds": "crown", "search": "off"},
    "crown-alpha": {"bounds": "crown-alpha:5", "search": "off"},
    "lp": {"bounds": "lp", "search": "off"},
    "branch bounds": {"bounds": "branch:8", "search": "off"},
    "split": {"bounds": "interval", "search": "split", "time_limit": 2.0},
    "branch": {"bounds": "crown", "search": "branch", "time_limit": 10.0},
    "auto": {"search": "auto", "time_limit": 20.0},
    "certified": {"bounds": "interval", "search": "network", "time_limit": 20.0},
}


@dataclass(frozen=True)
class Found:
    """A network with its domain, a run's report and proof, and the truth."""

    network: Any
    domain: Any
    report: Path
    proof: Path
    exact: Extrema


@cache
def truth(seed: int) -> tuple[Case, Extrema]:
    made = case(seed)
    assert made.exact
    return made, extrema(made.plain, made.regions)


def part(region: Region) -> Any:
    return Polytope(region.lower, region.upper, region.a, region.b) if region.a else Box(region.lower, region.upper)


def run(folder: Path, seed: int, **options: Any) -> Found:
    made, exact = truth(seed)
    file = folder / f"{seed}.onnx"
    file.write_bytes(made.onnx)
    network = load_onnx(file)
    domain = Union([part(region) for region in made.regions])
    proof, report = folder / "proof", folder / "report.json"
    if "time_limit" in options:  # seconds on an idle machine
        options["time_limit"] *= slowness()
    find_stable(network, domain, proof=str(proof), threads=1, **options).write(report)
    return Found(network, domain, report, proof, exact)


def polytope_run(folder: Path, seed: int, **options: Any) -> Found:
    """On the network of a seed with a polytope cut from its first region."""
    made, _ = truth(seed)
    rng = np.random.default_rng(seed)
    region = made.regions[0]
    n = len(region.lower)
    centre = 0.5 * (np.array(region.lower) + np.array(region.upper))
    a = rng.normal(size=(2, n))
    b = a @ centre + rng.uniform(0.05, 0.4, 2)
    cut = Region(region.lower, region.upper, tuple(map(tuple, a.tolist())), tuple(b.tolist()))
    file = folder / f"{seed}.onnx"
    file.write_bytes(made.onnx)
    network = load_onnx(file)
    domain = Polytope(list(region.lower), list(region.upper), a, b)
    proof, report = folder / "proof", folder / "report.json"
    if "time_limit" in options:  # seconds on an idle machine
        options["time_limit"] *= slowness()
    find_stable(network, domain, proof=str(proof), threads=1, **options).write(report)
    return Found(network, domain, report, proof, extrema(made.plain, [cut]))


def false_bounds(found: Found, proof: Path) -> list[str]:
    """Bounds that a replay comes to and that do not hold, on the union of the parts."""
    states = replay(proof, found.network, found.domain)
    wrong = []
    for k, layer in enumerate(found.network.layers):
        for i in range(layer.size):
            upper = max(float(state.upper[k][i]) for state in states)
            lower = min(float(state.lower[k][i]) for state in states)
            if np.isfinite(upper) and Fraction(upper) < found.exact.maximum[k][i]:
                wrong.append(f"layer {k}, neuron {i}: upper bound {upper}")
            if np.isfinite(lower) and Fraction(lower) > found.exact.minimum[k][i]:
                wrong.append(f"layer {k}, neuron {i}: lower bound {lower}")
    return wrong


def false_verdicts(found: Found, data: dict[str, Any]) -> list[str]:
    """Verdicts of a report that claim proof and do not hold."""
    wrong = []
    for entry in data["neurons"]:
        high = found.exact.maximum[entry["layer"]][entry["neuron"]]
        low = found.exact.minimum[entry["layer"]][entry["neuron"]]
        for side, can in (("positive", high > 0), ("negative", low < 0)):
            question = entry[side]
            if question["state"] == "refuted" and question["rigorous"] is True and can:
                wrong.append(f"{entry}: it can be {side}")
            if question["state"] == "witnessed" and not can:
                wrong.append(f"{entry}: it cannot be {side}")
        verdict = entry["verdict"]
        if verdict == "unstable" and not (high > 0 > low):
            wrong.append(f"{entry}: not unstable")
    return wrong


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_real_proofs_are_accepted_and_every_bound_holds(tmp_path, seed, method):
    found = run(tmp_path, seed, **METHODS[method])
    result = check(found.network, found.report, found.proof, domain=found.domain)
    assert result.problems == []
    assert not false_bounds(found, found.proof)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [0, 2, 4, 6])
def test_real_proofs_on_polytopes(tmp_path, seed, method):
    found = polytope_run(tmp_path, seed, **METHODS[method])
    assert check(found.network, found.report, found.proof).problems == []
    assert not false_bounds(found, found.proof)


# Changed proofs


def records(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Headers and arrays of a proof."""
    return [({"kind": r.kind, **r.values}, dict(r.arrays)) for r in read_records(path)]


TYPES = {
    **dict.fromkeys(("lower", "upper", "at", "slopes", "shift", "duals", "scale"), "<f8"),
    **dict.fromkeys(("sign", "phase"), "<i1"),
    **dict.fromkeys(("refuted", "carried"), "<u1"),
}


def write(path: Path, content: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """A proof file of the given records, with right checksums."""
    data = bytearray(MAGIC)
    for header, arrays in content:
        stored = {name: np.asarray(array).astype(TYPES.get(name, "<u4")) for name, array in arrays.items()}
        layout = [[name, TYPES.get(name, "<u4"), list(array.shape)] for name, array in stored.items()]
        text = json.dumps({**header, "arrays": layout}).encode()
        body = text + b"".join(array.tobytes() for array in stored.values())
        data += np.array([len(text), len(body) - len(text), zlib.crc32(body)], "<u4").tobytes() + body
    path.write_bytes(bytes(data))


def mutate(rng: np.random.Generator, content: list[Any]) -> str:
    """One change in place; its name."""
    if not content:
        return "nothing is left"
    i = int(rng.integers(1, len(content))) if len(content) > 1 else 0
    header, arrays = content[i]
    kind = str(rng.choice(["drop", "twice", "swap", "number", "numbers", "whole", "side", "close", "shorter", "layer"]))
    names = [name for name, array in arrays.items() if np.size(array)]
    name = str(rng.choice(names)) if names else ""
    match kind:
        case "drop":
            del content[i]
        case "twice":
            content.insert(i, (dict(header), dict(arrays)))
        case "swap":
            j = int(rng.integers(len(content)))
            content[i], content[j] = content[j], content[i]
        case "layer" if "layer" in header:
            header["layer"] = int(rng.integers(0, 4))
        case "close" if "done" in arrays or "closed" in arrays:
            key = "done" if "done" in arrays else "closed"
            arrays[key] = np.arange(12)
        case "shorter" if "tree" in arrays and len(arrays["tree"]) > 1:
            n = len(arrays["tree"])
            keep = np.delete(np.arange(n), rng.integers(n))
            for ragged in ("phase", "shift"):
                if f"{ragged}_count" in arrays:
                    owner = np.repeat(np.arange(n), np.asarray(arrays[f"{ragged}_count"], int))
                    inside = np.isin(owner, keep)
                    arrays[f"{ragged}_at"], arrays[ragged] = arrays[f"{ragged}_at"][inside], arrays[ragged][inside]
            for key in ("tree", "row", "sign", "slopes", "duals", "phase_count", "shift_count"):
                if key in arrays:
                    arrays[key] = arrays[key][keep]
        case _ if name:
            array = np.array(arrays[name])
            at = tuple(int(rng.integers(n)) for n in array.shape)
            if TYPES.get(name) == "<f8":
                scale = [0.0, -1.0, 2.0, 1e3, 1 + 1e-9][int(rng.integers(5))]
                if kind == "numbers":
                    array *= scale
                else:
                    array[at] = array[at] * scale + (scale == 0.0) * rng.normal()
            elif TYPES.get(name) == "<i1":
                array[at] = -array[at]
            elif name in {"refuted", "carried"}:
                array[at] ^= 1 << int(rng.integers(8))
            else:
                array[at] = int(rng.integers(0, int(array.max()) + 2))
            arrays[name] = array
        case _:
            header[str(rng.choice(["part", "by", "method"]))] = [0, "interval", 7][int(rng.integers(3))]
    return f"{kind} {name} in record {i} ({header['kind']})"


@pytest.mark.parametrize("method", ["crown-alpha", "lp", "branch bounds", "split", "branch", "auto"])
@pytest.mark.parametrize("seed", [0, 1, 2, 5, 8])
def test_no_changed_proof_shows_what_is_false(tmp_path, seed, method):
    found = run(tmp_path, seed, **METHODS[method])
    rng = np.random.default_rng([seed, len(method)])
    changed = tmp_path / "changed"
    for _ in range(8):
        content = records(found.proof)
        done = [mutate(rng, content) for _ in range(int(rng.integers(1, 4)))]
        write(changed, content)
        try:
            assert not false_bounds(found, changed), done
        except ProofError:
            continue


@pytest.mark.parametrize("seed", [2, 5])
def test_damaged_files_are_refused_or_prove_less(tmp_path, seed):
    found = run(tmp_path, seed, **METHODS["auto"])
    data = found.proof.read_bytes()
    rng = np.random.default_rng(seed)
    changed = tmp_path / "changed"
    for _ in range(60):
        torn = bytearray(data)
        at = int(rng.integers(len(MAGIC), len(data)))
        if rng.random() < 0.5:
            torn[at] ^= 1 << int(rng.integers(8))
        else:
            del torn[at:]
        changed.write_bytes(bytes(torn))
        try:
            assert not false_bounds(found, changed)
        except ProofError:
            continue


# Invented proofs


@pytest.mark.parametrize("seed", range(12))
def test_no_invented_proof_shows_what_is_false(tmp_path, seed):
    """Frames tighter than the truth, trees of any leaves with any slopes, multipliers and phases."""
    made, _ = truth(seed)
    found = run(tmp_path, seed, **METHODS["crown"])
    rng = np.random.default_rng([7, seed])
    network, layers = found.network, found.network.layers
    sizes = [layer.size for layer in layers]
    content = records(found.proof)
    for number in range(len(made.regions)):
        for k in range(len(layers)):
            total = sum(sizes[:k])
            low = -rng.exponential(size=total)
            high = rng.exponential(size=total)
            content.append(({"kind": "frame", "part": number, "layer": k}, {"lower": low, "upper": high}))
            n = 4 * sizes[k]
            phases = [rng.permutation(total)[: rng.integers(0, total + 1)] for _ in range(n)]
            shifts = rng.integers(0, total + 1, n) if total else np.zeros(n, int)
            content.append(
                (
                    {"kind": "leaves", "part": number, "layer": k},
                    {
                        "tree": np.arange(n) // 2,
                        "row": np.arange(n) // 4,
                        "sign": np.where((np.arange(n) // 2) % 2, -1, 1),
                        "slopes": rng.uniform(-1, 2, (n, total)),
                        "phase_count": [len(some) for some in phases],
                        "phase_at": np.concatenate(phases),
                        "phase": rng.choice([-1, 1], sum(map(len, phases))),
                        "shift_count": shifts,
                        "shift_at": rng.integers(0, max(total, 1), shifts.sum()),
                        "shift": rng.normal(size=shifts.sum()) * 10.0 ** rng.uniform(-6, 3),
                        "closed": np.arange(n // 2),
                    },
                )
            )
    assert network.n_neurons == sum(sizes)
    invented = tmp_path / "invented"
    write(invented, content)
    assert not false_bounds(found, invented)


def test_leaves_have_to_cover_everything():
    assert covers([{}])
    assert covers([{1: 1}, {1: -1, 2: 1}, {1: -1, 2: -1}])
    assert covers([{1: 1, 2: 1}, {1: -1, 2: 1}, {2: -1}])
    assert not covers([])
    assert not covers([{1: 1}])
    assert not covers([{1: 1}, {2: -1}])
    assert not covers([{1: 1}, {1: -1, 2: 1}])
    assert not covers([{1: 1, 2: 1}, {1: -1, 2: -1}])


# Changed reports


def lie(rng: np.random.Generator, data: dict[str, Any]) -> str:
    """One change of a report, which may make a verdict false; its name."""
    entry = data["neurons"][int(rng.integers(len(data["neurons"])))]
    side = str(rng.choice(["positive", "negative"]))
    other = "negative" if side == "positive" else "positive"
    kind = str(rng.choice(["refute", "witness", "verdict", "swap", "point", "drop", "copy", "number", "shift"]))
    match kind:
        case "refute":
            entry[side] = {"state": "refuted", "by": "crown", "rigorous": True}
            entry["verdict"] = "stably_inactive" if side == "positive" else "stably_active"
        case "witness" if data["witnesses"]:
            number = int(rng.integers(len(data["witnesses"])))
            entry[side] = {"state": "witnessed", "by": "random", "witness": number}
        case "verdict":
            entry["verdict"] = str(rng.choice(["stably_active", "stably_inactive", "unstable", "unknown"]))
        case "swap":
            entry[side], entry[other] = entry[other], entry[side]
        case "point" if data["witnesses"]:
            point = data["witnesses"][int(rng.integers(len(data["witnesses"])))]
            i = int(rng.integers(len(point)))
            point[i] = float(point[i] + rng.normal() * 10.0 ** rng.uniform(-17, 1))
        case "drop":
            data["neurons"].remove(entry)
        case "copy":
            data["neurons"].append(json.loads(json.dumps(entry)))
        case "number":
            entry["neuron"] = entry["neuron"] + int(rng.choice([-1, 1]))
        case _:
            data["counts"]["rigorous"] += 1
    return kind


@pytest.mark.parametrize("seed", [0, 1, 2, 5, 7, 8])
def test_no_changed_report_with_a_false_verdict_is_let_through(tmp_path, seed):
    found = run(tmp_path, seed, **METHODS["auto"])
    rng = np.random.default_rng(seed)
    text = found.report.read_text()
    changed = tmp_path / "changed.json"
    for _ in range(40):
        data = json.loads(text)
        done = [lie(rng, data) for _ in range(int(rng.integers(1, 3)))]
        totals = {name: sum(e["verdict"] == name for e in data["neurons"]) for name in data["counts"]}
        if rng.random() < 0.8:  # a liar who counts well
            data["counts"] |= {name: n for name, n in totals.items() if name != "rigorous"}
        changed.write_text(json.dumps(data))
        try:
            result = check(found.network, changed, found.proof)
        except ReportError:
            continue
        if not result.problems:
            assert not false_verdicts(found, data), done


def pretend(rng: np.random.Generator, found: Found, data: dict[str, Any]) -> None:
    """Make a report claim, with right counts, that a neuron is stable which is not, by what its proof file holds."""
    false = [
        (entry, side)
        for entry in data["neurons"]
        for side, can in (
            ("positive", found.exact.maximum[entry["layer"]][entry["neuron"]] > 0),
            ("negative", found.exact.minimum[entry["layer"]][entry["neuron"]] < 0),
        )
        if can
    ]
    if not false:
        return
    entry, side = false[int(rng.integers(len(false)))]
    other = "negative" if side == "positive" else "positive"
    before = entry["verdict"]
    certified = {"certified": {"leaves": 1, "seconds": 0.1}} if rng.random() < 0.5 else {}
    entry[side] = {"state": "refuted", "by": "network", "rigorous": True, **certified}
    if side == "negative" and entry[other]["state"] == "refuted":
        entry[other] = {"state": "open"}
    entry["verdict"] = "stably_inactive" if side == "positive" else "stably_active"
    data["counts"][before] -= 1
    data["counts"][entry["verdict"]] += 1
    data["counts"]["rigorous"] += before == "unknown"


@pytest.mark.long
def test_of_a_thousand_changes_none_that_makes_a_verdict_false_is_let_through(tmp_path):
    """Proof, report or both are changed: numbers, signs, bits, records and leaves left out, witnesses moved."""
    rng = np.random.default_rng(2026)
    found = []
    for seed in (0, 1, 2, 4, 5, 7, 8, 11):
        for method in ("crown-alpha", "branch bounds", "split", "branch", "auto", "certified"):
            folder = tmp_path / f"{seed} {method}"
            folder.mkdir()
            found.append(run(folder, seed, **METHODS[method]))
    tried = refused = false = 0
    proof, report = tmp_path / "proof", tmp_path / "report.json"
    for number in range(1000):
        one = found[number % len(found)]
        data = json.loads(one.report.read_text())
        content = records(one.proof)
        done = []
        if number % 3 != 1:
            done += [mutate(rng, content) for _ in range(int(rng.integers(1, 4)))]
        if number % 3 == 1:
            done += [lie(rng, data) for _ in range(int(rng.integers(1, 3)))]
        if number % 3 == 2:
            pretend(rng, one, data)
        write(proof, content)
        if number % 7 == 0:
            torn = bytearray(proof.read_bytes())
            torn[int(rng.integers(len(torn)))] ^= 1 << int(rng.integers(8))
            proof.write_bytes(bytes(torn))
        report.write_text(json.dumps(data))
        tried += 1
        sizes = [layer.size for layer in one.network.layers]
        beyond = [e["neuron"] for e in data["neurons"] if not 0 <= e["neuron"] < sizes[e["layer"]]]
        wrong = beyond or false_verdicts(one, data)
        false += bool(wrong)
        try:
            result = check(one.network, report, proof)
        except (ReportError, ProofError):
            refused += 1
            continue
        refused += bool(result.problems)
        assert result.problems or not wrong, (number, done, wrong)
    assert tried == 1000
    assert false > 250, "the changes have to make verdicts false"
    assert refused > false


def test_the_wrong_network_domain_or_proof_is_refused(tmp_path):
    found = run(tmp_path, 2, **METHODS["crown"])
    folder = tmp_path / "other"
    folder.mkdir()
    other = run(folder, 3, **METHODS["crown"])
    with pytest.raises(ReportError, match="about this network"):
        check(other.network, found.report, found.proof)
    with pytest.raises(ProofError, match="another network"):
        check(found.network, found.report, other.proof)
    with pytest.raises(ReportError, match="another domain"):
        check(found.network, found.report, found.proof, domain=other.domain)
    data = json.loads(found.report.read_text())
    data["domain"] = Box([0.0] * found.network.n_inputs, [0.5] * found.network.n_inputs).to_json()
    found.report.write_text(json.dumps(data))
    with pytest.raises(ProofError, match="another domain"):
        check(found.network, found.report, found.proof)


def test_without_its_proof_a_report_does_not_hold(tmp_path):
    found = run(tmp_path, 2, **METHODS["auto"])
    assert not check(found.network, found.report, found.proof).problems
    empty = tmp_path / "empty"
    write(empty, records(found.proof)[:1])
    result = check(found.network, found.report, empty)
    plain = json.loads(found.report.read_text())
    needs = [
        e
        for e in plain["neurons"]
        if any(e[s].get("by") in {"split", "branch", "crown"} for s in ("positive", "negative"))
    ]
    assert bool(needs) == bool(result.problems)


# The arithmetic


@pytest.mark.parametrize("seed", range(20))
def test_products_enclose_the_exact_ones(seed):
    rng = np.random.default_rng(seed)
    m, n = (int(k) for k in rng.integers(1, 8, 2))
    spread = float(rng.choice([0.0, 5.0, 30.0]))
    matrix = rng.normal(size=(m, n)) * 10.0 ** rng.uniform(-spread, spread, (m, n))
    offset = rng.normal(size=m) * 10.0 ** rng.uniform(-spread, spread, m)
    exact = [[Fraction(w) for w in row] for row in matrix.tolist()]
    held = ExactMatrix(matrix, offset)
    x = rng.normal(size=(3, n)) * 10.0 ** rng.uniform(-spread, spread, (3, n))
    nu = Slices.of(rng.normal(size=(1, 3, m)) * 10.0 ** rng.uniform(-spread, spread, (1, 3, m)), held.bits, CHOSEN)
    forward, size, back = held.forward(x), held.forward(abs(x), absolute=True), held.back(nu)
    chosen = sum(nu.pieces)
    for p in range(3):
        for i in range(m):
            products = [w * Fraction(v) for w, v in zip(exact[i], x[p].tolist(), strict=True)]
            true = Fraction(offset[i]) + sum(products)
            assert abs(true - Fraction(forward.value[p, i])) <= Fraction(forward.error[p, 0])
            true = sum(map(abs, products))
            assert abs(true - Fraction(size.value[p, i])) <= Fraction(size.error[p, 0])
        for j in range(n + 1):
            column = [Fraction(b) for b in offset.tolist()] if j == n else [row[j] for row in exact]
            true = sum(w * Fraction(v) for w, v in zip(column, chosen[0, p].tolist(), strict=True))
            rest = Fraction(2) ** int(nu.exponent[0, p, 0] - CHOSEN * held.bits) * sum(map(abs, column)) * nu.rest
            assert abs(true - Fraction(back.value[0, p, j])) <= Fraction(back.error[0, p, 0]) + rest
    assert spread or (forward.error <= 1e-12 * (1 + abs(forward.value).max())).all()


@pytest.mark.parametrize("seed", range(20))
def test_sums_are_rounded_up_and_no_more_than_that(seed):
    rng = np.random.default_rng(seed)
    terms = [rng.normal(size=(2, 3, 50)) * 10.0 ** rng.uniform(-40, 3, (2, 3, 50)), rng.normal(size=(1, 3, 1))]
    found, first = sum_up(terms), row_sum(terms[0], 2)
    for p, row in np.ndindex(2, 3):
        values = [*terms[0][p, row].tolist(), *terms[1][0, row].tolist()]
        true, size = sum(Fraction(v) for v in values), Fraction(max(map(abs, values)))
        assert true <= Fraction(float(found[p, row])) <= true + size / 2**45
        true = sum(Fraction(v) for v in values[:-1])
        # Each term may stand for a number that is larger by two roundings.
        most = true + sum(abs(Fraction(v)) for v in values[:-1]) / 2**52
        assert most <= Fraction(float(first[p, row, 0])) <= true + size / 2**43


@pytest.mark.parametrize("bits", [18, 22])
def test_slices_are_whole_multiples_and_add_up(bits):
    rng = np.random.default_rng(bits)
    values = rng.normal(size=(4, 30)) * 10.0 ** rng.uniform(-12, 3, (4, 30))
    values[0, 0], values[1] = 0.0, 0.0
    cut = Slices.of(values, bits, 3)
    for row, exponent in enumerate(cut.exponent[:, 0].tolist()):
        for column in range(30):
            left = Fraction(values[row, column])
            for i, piece in enumerate(cut.pieces, 1):
                units = Fraction(piece[row, column]) / Fraction(2) ** (exponent - i * bits)
                assert units.denominator == 1
                assert abs(units) <= 2**bits
                left -= Fraction(piece[row, column])
            assert abs(left) <= Fraction(2) ** (exponent - 3 * bits)


# Files


def log(path: Path, found: Found) -> ProofLog:
    return ProofLog(path, found.network.sha256, found.domain.digest, len(found.domain.parts), resume=True)


def test_what_a_run_had_not_written_to_its_end_is_left_out_and_appended_to(tmp_path):
    found = run(tmp_path, 2, **METHODS["auto"])
    whole = records(found.proof)
    with found.proof.open("ab") as file:
        file.write(b"\x10\x00\x00\x00\x00\x00")
    assert len(records(found.proof)) == len(whole)
    log(found.proof, found).close()
    again = records(found.proof)
    assert [header for header, _ in again] == [header for header, _ in [*whole, whole[0]]]
    assert not check(found.network, found.report, found.proof).problems


def test_a_resumed_run_appends_its_proof(tmp_path):
    found = run(tmp_path, 2, **METHODS["crown"])
    report = find_stable(
        found.network, found.domain, proof=str(found.proof), resume=str(found.report), threads=1, search="auto"
    )
    report.write(found.report)
    assert not check(found.network, found.report, found.proof).problems
    assert [header["kind"] for header, _ in records(found.proof)].count("begin") == 2


def test_no_other_file_is_written_over(tmp_path):
    found = run(tmp_path, 2, **METHODS["crown"])
    other = tmp_path / "precious"
    other.write_bytes(b"something else")
    with pytest.raises(InputError, match="not a proof file"):
        log(other, found)
    assert other.read_bytes() == b"something else"


def test_malformed_files_are_named():
    with pytest.raises(ProofError, match="whole number below 3"):
        Record(4, "layer", {"layer": True}, {}).whole("layer", 3)
    with pytest.raises(ProofError, match="record 4"):
        Record(4, "leaves", {}, {"row": np.array([1, 9])}).indices("row", 2, 5)
