"""What a solver refuted is proven anew without it; a lie is never rigorous, and ends as a witness where an input is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.auditor import audit
from oracle.exact import extrema
from oracle.networks import case
from small import twisted
from stablenet.backends.base import SolveResult, Status
from stablenet.backends.base import registry as backends

from stablenet import Box, Network, Union, find_stable, load_onnx
from stablenet.check.claims import check
from stablenet.core.certificates import CERTIFIER, Certificate
from stablenet.core.errors import ContradictionError
from stablenet.core.ledger import Ledger
from stablenet.core.network import AffineMap, Layer, Term
from stablenet.core.questions import NEGATIVE, POSITIVE
from stablenet.milp import arrays
from stablenet.report.report import Report
from stablenet.search import certify as module

N = 12
DOMAIN = Box(np.zeros(N), np.ones(N))
MILP = ("network", "layer", "neuron")
SHORT = -1 / 4
ALONE: dict[str, Any] = {"bounds": "interval", "falsify": False, "inject": "off", "threads": 1}
"""Nothing but the solver closes a question that needs more than intervals, samples and probes."""


@dataclass(frozen=True)
class Planted:
    """A network whose last layer's neurons have exactly known maxima, which few points come near; samples that close
    all other questions.
    """

    network: Network
    largest: list[Fraction]
    samples: str


def planted(folder: Path, seed: int, rows: int = 4) -> Planted:
    """Each row is a sum over inputs x of ``w max(x - t, 0) - v max(x - s, 0)`` with s < t, and an offset.

    Its largest value is that of each summand's at 0 or 1, to a number of summands next to a single vertex. Offsets
    make that a little more or less than 0. Intervals, which bound both terms apart, decide none.
    """
    rng = np.random.default_rng(seed)
    late, early = rng.integers(52, 60, N) / 64, rng.integers(40, 50, N) / 64
    gain, loss = rng.integers(1, 9, (rows, N)) / 8.0, rng.integers(1, 4, (rows, N)) / 8.0
    most = np.maximum(gain * (1 - late) - loss * (1 - early), 0.0)
    # Half of the rows fall short of 0; the others exceed it by a little, and not without all of their inputs.
    least = np.array([row[row > 0].min(initial=1 / 64) for row in most])
    offset = -most.sum(axis=1) + np.where(np.arange(rows) % 2, SHORT, least / 4)
    first = np.concatenate([np.eye(N), np.eye(N)])
    layers = (
        Layer(AffineMap(-np.concatenate([late, early]), (Term(0, first),)), "a", (2 * N,)),
        Layer(AffineMap(offset, (Term(1, np.concatenate([gain, -loss], axis=1)),)), "b", (rows,)),
    )
    largest = [
        Fraction(offset[r])
        + sum(
            max(Fraction(gain[r, i]) * (1 - Fraction(late[i])) - Fraction(loss[r, i]) * (1 - Fraction(early[i])), 0)
            for i in range(N)
        )
        for r in range(rows)
    ]
    half = np.arange(N) % 2
    np.save(folder / "samples.npy", np.stack([half, 1 - half]).astype(np.float64))
    return Planted(
        Network(N, layers, AffineMap(np.zeros(1), (Term(2, np.ones((1, rows))),))),
        largest,
        str(folder / "samples.npy"),
    )


@pytest.fixture(name="case0")
def _case0(tmp_path: Path) -> Planted:
    return planted(tmp_path, 0)


@pytest.fixture(name="liar", params=MILP)
def _liar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options for a search and a solver that says of all questions that they are refuted: a bound of 0 for the single
    MILP, and one a little below 0 for the pre-activation of one question.
    """
    most = -1e-3 if request.param == "neuron" else 0.0

    def lie(_milp: arrays.MILP, found: SolveResult) -> SolveResult:
        bound = min(found.dual_bound, most)
        return replace(found, status=Status.OPTIMAL, solver_status="optimal", x=None, objective=None, dual_bound=bound)

    monkeypatch.setitem(backends.classes, "liar", twisted(lie))
    return {"search": request.param, "solver": "liar"}


def question(report: Report, layer: int, neuron: int, side: str) -> dict[str, Any]:
    found = [n for n in report.data["neurons"] if (n["layer"], n["neuron"]) == (layer, neuron)]
    return dict(found[0][side])


def refuted(report: Report) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
    for neuron in report.data["neurons"]:
        for side in ("positive", "negative"):
            if neuron[side]["state"] == "refuted":
                yield neuron["layer"], neuron["neuron"], side, neuron[side]


def false_refutations(report: Report, made: Planted) -> list[dict[str, Any]]:
    """Refuted questions of the last layer that are false; each of the first layer has a witness."""
    return [
        found
        for layer, neuron, side, found in refuted(report)
        if layer == 0 or side == "negative" or made.largest[neuron] > 0
    ]


@pytest.mark.parametrize("search", MILP)
@pytest.mark.parametrize("seed", range(3))
def test_what_an_honest_solver_refutes_is_proven(seed: int, search: str, tmp_path: Path) -> None:
    made = planted(tmp_path, seed)
    options = {"search": search, "samples": made.samples, **ALONE}
    plain = find_stable(made.network, DOMAIN, certify=False, **options)
    assert plain.complete
    assert "certify" not in plain.data["seconds"]
    report = find_stable(made.network, DOMAIN, **options)
    assert report.verdicts() == plain.verdicts()
    for neuron, largest in enumerate(made.largest):
        before, found = question(plain, 1, neuron, "positive"), question(report, 1, neuron, "positive")
        assert (found["state"] == "refuted") == (largest <= 0)
        if largest <= 0:
            assert before == {"state": "refuted", "by": search, "rigorous": False}
            assert (found["by"], found["rigorous"]) == (search, True)
            assert found["certified"]["leaves"] >= 1
            assert report.data["seconds"]["certify"] >= found["certified"]["seconds"] > 0.0
    assert report.counts["rigorous"] == 2 * N + len(made.largest) > plain.counts["rigorous"]


@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_a_lie_ends_as_a_witness_and_the_truth_beside_it_is_proven(
    seed: int, liar: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stablenet.find.pipeline.LEAST_SECONDS", 8.0)
    made = planted(tmp_path, seed)
    options = {"samples": made.samples, **liar, **ALONE}
    believed = find_stable(made.network, DOMAIN, certify=False, **options)
    assert false_refutations(believed, made), "nothing else catches the lies"
    with pytest.raises(ContradictionError, match=f"'{liar['search']}' refuted") as caught:
        find_stable(made.network, DOMAIN, **options)
    report = caught.value.report
    assert isinstance(report, Report)
    assert not false_refutations(report, made)
    assert {row["source"] for row in report.contradictions} == {liar["search"]}
    for neuron, largest in enumerate(made.largest):
        found = question(report, 1, neuron, "positive")
        if largest <= 0:
            assert found["state"] == "refuted"
            assert found["rigorous"]
        elif found["state"] == "open":
            assert any(question(report, 1, i, "positive")["state"] == "witnessed" for i in range(len(made.largest)))
        else:
            assert found["state"] == "witnessed"
            point = np.array(report.data["witnesses"][found["witness"]])[None, :]
            assert DOMAIN.holds(point).all()
            assert made.network.pre_activations(point)[1][0, neuron] > 0.0


def test_without_time_a_lie_is_not_rigorous(liar: dict[str, Any], case0: Planted, monkeypatch: Any) -> None:
    monkeypatch.setattr("stablenet.find.pipeline.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("stablenet.find.pipeline._solver_seconds", lambda job, ledger: 0.0)
    report = find_stable(case0.network, DOMAIN, samples=case0.samples, **liar, **ALONE)
    wrong = false_refutations(report, case0)
    assert wrong
    assert not any(found["rigorous"] or "certified" in found for found in wrong)


@pytest.mark.parametrize("search", MILP)
def test_certificates_agree_with_exact_extrema_and_stand_the_checker(tmp_path: Path, search: str) -> None:
    claimed = certified = 0
    for seed in range(24):
        made = case(seed)
        exact = extrema(made.plain, made.regions)
        proof, file, model = tmp_path / f"{seed}.proof", tmp_path / f"{seed}.json", tmp_path / f"{seed}.onnx"
        model.write_bytes(made.onnx)
        network = load_onnx(model)
        domain = Union([Box(list(region.lower), list(region.upper)) for region in made.regions if not region.a])
        report = find_stable(
            network,
            domain,
            search=search,
            bounds="interval",
            decide_by_bounds=seed % 2 == 0,
            proof=str(proof),
            threads=1,
            time_limit=600,
        )
        report.write(file)
        assert audit(report.to_json(), model) == []
        assert check(network, file, proof, domain=domain).problems == []
        for layer, neuron, side, found in refuted(report):
            high, low = exact.maximum[layer][neuron], exact.minimum[layer][neuron]
            assert high <= 0 if side == "positive" else low >= 0
            if found["by"] == search:
                claimed += 1
                certified += "certified" in found
                assert found["rigorous"] or "certified" not in found
    assert claimed > 20
    assert certified >= 0.95 * claimed


def test_a_resumed_run_certifies_what_the_first_left_and_keeps_certificates(case0: Planted, tmp_path: Path) -> None:
    network, options = case0.network, {"samples": case0.samples, **ALONE}
    file = tmp_path / "report.json"
    find_stable(network, DOMAIN, search="network", certify=False, **options).write(file)
    report = find_stable(network, DOMAIN, resume=str(file), search="network", **options)
    found = question(report, 1, 1, "positive")
    assert (found["by"], found["rigorous"]) == ("network", True)
    assert found["certified"]["leaves"] >= 1
    report.write(file)
    again = find_stable(network, DOMAIN, resume=str(file), search="off", **options)
    assert question(again, 1, 1, "positive") == found


def test_a_run_that_begins_a_proof_proves_what_a_report_says(case0: Planted, tmp_path: Path) -> None:
    """Of the report's rigorous refutations the new file would hold no proof."""
    network, options = case0.network, {"samples": case0.samples, **ALONE}
    file, proof = tmp_path / "report.json", tmp_path / "proof"
    first = find_stable(network, DOMAIN, search="split", **options)
    first.write(file)
    report = find_stable(network, DOMAIN, resume=str(file), search="off", proof=str(proof), **options)
    assert report.counts == first.counts
    report.write(file)
    assert check(network, file, proof).problems == []
    off = find_stable(
        network, DOMAIN, resume=str(file), search="off", proof=str(tmp_path / "new"), certify=False, **options
    )
    assert off.counts["rigorous"] < first.counts["rigorous"]


def test_the_second_ledger_knows_only_what_is_rigorous() -> None:
    ledger = Ledger([3], 2)
    ledger.refute(0, POSITIVE, np.array([0, 1]), "one", rigorous=True)
    ledger.refute(1, POSITIVE, np.array([0, 1]), "solver", rigorous=False)
    ledger.refute(0, NEGATIVE, np.array([2]), "solver", rigorous=False)
    claims = module.claims_of(ledger)
    assert np.argwhere(claims).tolist() == [[1, POSITIVE, 0], [1, POSITIVE, 1]], "one part alone refutes nothing"


def test_a_certificate_survives_its_claimants_fall() -> None:
    ledger = Ledger([3])
    ledger.refute(0, POSITIVE, np.array([0, 1]), "solver", rigorous=False)
    found = Certificate(np.array([4]), np.array([0.5]))
    ledger.refute(0, POSITIVE, np.array([0]), CERTIFIER, rigorous=True, certificate=found)
    ledger.refute(0, POSITIVE, np.array([0]), "solver", rigorous=False)
    assert ledger.part_rigorous[0, POSITIVE, :2].tolist() == [True, False]
    assert ledger.certified.to_json(POSITIVE, 0) == {"leaves": 4, "seconds": 0.5}
    ledger.distrust("solver")
    assert (ledger.part_by[0, POSITIVE, :2] >= 0).tolist() == [True, False]
    ledger.distrust(CERTIFIER)
    assert not (ledger.part_by >= 0).any()
    assert ledger.certified.to_json(POSITIVE, 0) is None
