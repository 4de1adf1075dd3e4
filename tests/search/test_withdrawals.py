"""What a witness has contradicted is used by no search any more, nor what rests on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stablenet import Box, Network, find_stable
from stablenet.bounds import Context, registry
from stablenet.bounds.methods import Crown
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline, SearchStoppedError
from stablenet.core.errors import ContradictionError
from stablenet.core.ledger import Ledger
from stablenet.core.network import AffineMap, Layer, Term
from stablenet.core.options import Options
from stablenet.core.questions import NEGATIVE, POSITIVE
from stablenet.domain.regions import Part
from stablenet.falsify.falsifier import Falsifier
from stablenet.find.pipeline import Setup
from stablenet.report.report import Report, resume_into
from stablenet.search.base import Problem

D = 1e-6
N = 14
DOMAIN = Box(-np.ones(N), np.ones(N))


@pytest.fixture(name="network")
def _network() -> Network:
    """The last neuron is positive just where the first of the layer before is within D of its zero or above it."""
    first = np.zeros((4, N))
    first[:3, 0] = 1.0
    first[3, 1] = 1.0
    layers = (
        Layer(AffineMap(np.array([-0.5, -0.5 - D, -0.5 - 2 * D, 0.0]), (Term(0, first),)), "a", (4,)),
        Layer(AffineMap(np.array([-D / 2]), (Term(1, np.array([[1.0, -2.0, 1.0, 0.0]])),)), "b", (1,)),
    )
    return Network(N, layers, AffineMap(np.zeros(1), (Term(2, np.ones((1, 1))),)))


class Lying(Crown):
    """CROWN, and three neurons that it calls inactive and that are not."""

    name = "lying"

    def run(self, network: Network, part: Part, context: Context | None = None) -> Bounds:
        bounds = Crown().run(network, part, context)
        upper = bounds.layers[0].upper.copy()
        upper[:3] = -0.1
        return bounds.tighten("lying", 0, np.full(len(upper), np.nan), upper, rigorous=self.rigorous)


def nothing_false(report: Report) -> None:
    """All neurons are unstable."""
    assert {neuron["verdict"] for neuron in report.data["neurons"]} <= {"unstable", "unknown"}
    refuted = [n for n in report.data["neurons"] for side in ("positive", "negative") if n[side]["state"] == "refuted"]
    assert not refuted
    assert min(neuron["upper"] for neuron in report.data["neurons"]) > 0.0


@pytest.mark.parametrize("rigorous", [False, True])
@pytest.mark.parametrize("search", ["auto", "branch", "split", "network", "layer", "neuron", "off"])
def test_no_search_uses_withdrawn_bounds(
    search: str, rigorous: bool, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.classes, "lying", Lying)
    monkeypatch.setattr(Lying, "rigorous", rigorous)
    with pytest.raises(ContradictionError, match="'lying' refuted") as caught:
        find_stable(network, DOMAIN, bounds="lying", search=search, threads=1, time_limit=600, margin=1e-8)
    report = caught.value.report
    assert isinstance(report, Report)
    nothing_false(report)
    if search not in ("branch", "off"):
        assert report.complete, "the search goes on with bounds that are believed"


def problem(network: Network, found: Bounds, **options: Any) -> Problem:
    job = Setup(network, DOMAIN, Options(threads=1, **options))
    ledger = Ledger([layer.size for layer in network.layers])
    rng = np.random.default_rng(0)
    falsifier = Falsifier(network, DOMAIN, ledger, rng, lambda: False)
    return Problem(
        network, DOMAIN, ledger, [found], job.formulation, job.backend, job.options, falsifier, rng, Deadline(None)
    )


def test_bounds_fall_back_to_the_last_that_are_believed(network: Network) -> None:
    crown = Crown().run(network, DOMAIN)
    made = problem(network, crown)
    upper = np.full(4, 0.25)
    made.bounds[0] = better = crown.tighten("one", 0, np.full(4, np.nan), upper, rigorous=True)
    made.ledger.refute(0, NEGATIVE, np.array([3]), "two", rigorous=False)
    made.bounds[0] = best = better.tighten("three", 0, np.full(4, np.nan), upper - 0.1, rigorous=True)
    assert made.bounds[0] is best
    made.ledger.distrust("two")
    assert made.bounds[0] is better, "the last rested on what two had refuted"
    made.ledger.distrust("one")
    assert made.bounds[0] is crown
    made.ledger.distrust("crown")
    assert made.bounds[0].methods == ("interval",)
    made.ledger.distrust("interval")
    with pytest.raises(SearchStoppedError):
        made.bounds[0]


def test_work_that_began_before_a_withdrawal_refutes_nothing() -> None:
    ledger = Ledger([4])
    since = ledger.withdrawals
    ledger.refute(0, POSITIVE, np.array([0]), "mine", rigorous=True, since=since)
    ledger.distrust("other")
    ledger.refute(0, POSITIVE, np.array([1]), "mine", rigorous=True, since=since)
    ledger.refute(0, POSITIVE, np.array([2]), "mine", rigorous=True, since=ledger.withdrawals)
    assert (ledger.part_by[0, POSITIVE] >= 0).tolist() == [True, False, True, False]


def test_bounds_are_no_proof_once_one_of_their_methods_is_withdrawn(network: Network) -> None:
    crown = Crown().run(network, Box(np.ones(N), np.ones(N)))
    mixed = crown.tighten("lying", 0, np.full(4, np.nan), np.full(4, 0.4), rigorous=False)
    for dead in ("lying", "another"):
        ledger = Ledger([4, 1])
        ledger.distrust(dead)
        ledger.refute_by_bounds(0, mixed)
        assert (ledger.part_by >= 0).any() == (dead == "another")


def revoked(rigorous: bool) -> list[bool]:
    """Which refutations are left after the source that bounded without deciding anything is withdrawn."""
    ledger = Ledger([4])
    sides = (np.full(4, -1.0), np.full(4, 1.0))
    ledger.refute(0, POSITIVE, np.array([0]), "before", rigorous=False)
    ledger.set_bounds(0, Bounds.of("lying", [sides], rigorous=rigorous))
    ledger.refute(0, POSITIVE, np.array([1]), "loose", rigorous=False)
    ledger.refute(0, POSITIVE, np.array([2]), "sure", rigorous=True)
    ledger.distrust("lying")
    return (ledger.part_by[0, POSITIVE] >= 0).tolist()


def test_what_came_after_a_sources_bounds_is_revoked_with_it() -> None:
    assert revoked(rigorous=False) == [True, False, True, False]
    assert revoked(rigorous=True) == [True, False, False, False], "what it called rigorous made the rest seem so"


def test_reported_bounds_go_with_what_they_rested_on() -> None:
    ledger = Ledger([1])
    wide, narrow = (
        Bounds.of(name, [(np.array([-x]), np.array([x]))], rigorous=True) for name, x in (("a", 2.0), ("b", 1.0))
    )
    ledger.set_bounds(0, wide)
    ledger.set_bounds(0, narrow, rests_on=("c",))
    assert float(ledger.upper[0, 0]) == 1.0
    ledger.distrust("c")
    assert float(ledger.upper[0, 0]) == 2.0


def test_resumed_refutations_may_rest_on_each_other(network: Network, tmp_path: Path) -> None:
    """A report does not say in which order its sources spoke."""
    report = find_stable(network, DOMAIN, search="off", falsify=False)
    neurons = [dict(neuron) for neuron in report.data["neurons"]]
    neurons[0]["positive"] = {"state": "refuted", "by": "milder", "rigorous": False}
    neurons[1]["positive"] = {"state": "refuted", "by": "liar", "rigorous": False}
    ledger = Ledger([4, 1])
    falsifier = Falsifier(network, DOMAIN, ledger, np.random.default_rng(0), lambda: False)
    resume_into(Report({**report.data, "neurons": neurons}), ledger, falsifier.witnesser)
    assert (ledger.part_by[0, POSITIVE, :2] >= 0).all()
    ledger.distrust("liar")
    assert not (ledger.part_by[0] >= 0).any()
