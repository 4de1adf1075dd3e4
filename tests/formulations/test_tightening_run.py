"""Tightening as a part of a run: progress, costs in the report, layers kept as they are done, solvers that overrun."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from small import TwistedSession, honest, twisted
from stablenet.backends.base import Limits, Session, SolveResult
from stablenet.backends.highs import Highs

from formulations.networks import cube, dense
from stablenet.api import find_stable
from stablenet.bounds import Context, run
from stablenet.bounds.layer_model import PATIENCE
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline
from stablenet.core.ledger import Ledger
from stablenet.core.options import Options
from stablenet.find.pipeline import Setup, find
from stablenet.testing.suite import slowness

NETWORK, DOMAIN = dense(3, (3, 8, 8, 8, 2)), cube(3)


def events_of(bounds: str) -> list[dict[str, Any]]:
    """What a run without search says while it works."""
    events: list[dict[str, Any]] = []
    ledger = Ledger([layer.size for layer in NETWORK.layers], emit=events.append)
    find(Setup(NETWORK, DOMAIN, Options(bounds=bounds, search="off", falsify=False)), ledger, Deadline(None))
    return events


def test_a_run_says_how_far_it_is_and_keeps_each_layer() -> None:
    events = events_of("lp")
    stages = [event["stage"] for event in events if event["event"] == "progress"]
    assert any(stage.startswith("lp, layer 1: ") for stage in stages)
    assert all(stage.split(": ")[1].split(" of ")[0].isdigit() for stage in stages)
    first = next(i for i, event in enumerate(events) if event["event"] == "tightening")
    assert any(event["event"] == "bounds" for event in events[first:])  # told as they come, not at the end
    kept = [event for event in events if event["event"] == "bounds"]
    assert len(kept) >= len(NETWORK.layers) + 2  # intervals first, each layer, the result
    follower = Ledger([layer.size for layer in NETWORK.layers])
    for event in events[: events.index(kept[-2])]:
        follower.apply(event)
    assert follower.log.stage
    assert np.isfinite(follower.upper).all()
    last = Ledger([layer.size for layer in NETWORK.layers])
    for event in events:
        last.apply(event)
    assert not last.log.stage  # nothing is under way once bounds are done


def test_costs_stand_apart_in_the_report() -> None:
    report = find_stable(NETWORK, DOMAIN, bounds="progressive", search="off", falsify=False).to_json()
    rows = report["tightening"]
    assert {row["by"] for row in rows} == {"crown-alpha", "lp", "milp"}
    assert {row["layer"] for row in rows} == {1, 2}
    assert 0 < sum(row["seconds"] for row in rows) <= report["seconds"]["bounds"]
    assert all(row["questions"] > 0 and row["tightened"] >= 0 for row in rows)
    assert "tightening" not in find_stable(NETWORK, DOMAIN, bounds="crown", search="off", falsify=False).to_json()


def test_layers_done_are_kept_for_whoever_is_killed() -> None:
    seen: list[Bounds] = []
    found = run("lp", NETWORK, DOMAIN, Context(keep=seen.append))
    assert len(seen) == len(NETWORK.layers)
    for k, bounds in enumerate(seen):
        np.testing.assert_array_equal(bounds.layers[k].upper, found.layers[k].upper)
        np.testing.assert_array_equal(bounds.layers[k].lower, found.layers[k].lower)


class Overrunning(TwistedSession):
    """Answers the first question, and on the second hears no time limit."""

    asked = 0
    over = threading.Event()

    def solve(self, limits: Limits, **arguments: Any) -> SolveResult:
        type(self).asked += 1
        if type(self).asked > 1:
            self.over.wait(600.0)
        return super().solve(limits, **arguments)


def test_a_solver_that_overruns_costs_no_more_than_its_answers() -> None:
    class Deaf(twisted(honest, "deaf")):  # type: ignore[misc]
        def open(self, milp: Any, settings: Any = None) -> Session:
            return Overrunning(Highs().open(milp), honest)

    Overrunning.asked = 0
    costs: list[dict[str, Any]] = []
    Overrunning.over.clear()
    given = 0.6 * slowness()
    began = time.monotonic()
    try:
        bounds = run("milp", NETWORK, DOMAIN, Context(backend=Deaf(), deadline=Deadline(given), costs=costs))
        assert time.monotonic() - began < given + PATIENCE + 10.0 * slowness()
    finally:
        Overrunning.over.set()
    assert [row["by"] for row in costs] == ["milp"]
    assert len(bounds.layers) == len(NETWORK.layers)
    plain = run("crown", NETWORK, DOMAIN)
    assert all((a.upper <= b.upper).all() for a, b in zip(bounds.layers, plain.layers, strict=True))
    assert costs[0]["tightened"] >= 1


def test_one_model_is_loaded_for_all_questions_of_a_layer() -> None:
    loaded: list[int] = []

    class Counting(Highs):
        def open(self, milp: Any, settings: Any = None) -> Session:
            loaded.append(milp.n_columns)
            return super().open(milp) if settings is None else super().open(milp, settings)

    for threads in (1, 2):
        loaded.clear()
        context = Context(backend=Counting(), threads=threads)
        run("lp", NETWORK, DOMAIN, context)
        assert sum(row["questions"] for row in context.costs) > 2 * threads * len(context.costs)
        assert len(context.costs) <= len(loaded) <= threads * len(context.costs)


def test_what_a_relaxation_leaves_open_is_no_borderline() -> None:
    found = find_stable(NETWORK, DOMAIN, formulation="relaxed", search="neuron", bounds="interval", falsify=False)
    exact = find_stable(NETWORK, DOMAIN, search="neuron", bounds="interval", falsify=False)
    assert exact.complete
    assert found.counts["unknown"] > 0
    assert found.stopped_by == "search"
    for relaxed, true in zip(found.verdicts(), exact.verdicts(), strict=True):
        assert all(a in {b, "unknown"} for a, b in zip(relaxed, true, strict=True))
