"""Stops that solvers took badly: SCIP by its first incumbent, HiGHS by a proposal; HiGHS without sub-MIPs."""

from __future__ import annotations

import numpy as np
import pytest
from formulations.networks import crown, random_case
from stablenet.backends.base import Callbacks, Limits, Settings, Status, registry

from stablenet.pyomo_model.search_model import SearchModel, build_search_model
from stablenet.testing.suite import slowness


def search_model(seed: int) -> tuple[SearchModel, np.ndarray]:
    network, domain, _ = random_case(seed)
    part = domain.parts[0]
    asked = [np.arange(layer.size) for layer in network.layers]
    bounds = crown(network, part)
    model = build_search_model(network, part, bounds, "bigm", positive=asked, negative=[], margin=1e-8, decide=False)
    return model, model.point((part.lower + part.upper) / 2)


@pytest.mark.backend("scip")
@pytest.mark.parametrize("seed", range(6))
def test_scip_is_stopped_by_its_first_incumbent(seed: int) -> None:
    model, start = search_model(seed)
    seen: list[float] = []

    def enough(_: np.ndarray, objective: float) -> bool:
        seen.append(objective)
        return True

    with registry.get("scip").open(model.milp) as session:
        result = session.solve(Limits(), start=start, callbacks=Callbacks(on_incumbent=enough))
        assert seen
        # Small models may be solved before SCIP listens; stopped or solved, it is no error, and goes on working.
        assert result.status in {Status.INTERRUPTED, Status.OPTIMAL}
        assert session.solve(Limits(), start=start).status is Status.OPTIMAL


@pytest.mark.backend("scip")
def test_scip_is_not_stopped_while_it_prepares_to_solve() -> None:
    """There interruptSolve fails, and took the engine with it."""
    import pyscipopt
    from stablenet.backends.scip_plugins import Link

    class Model:
        stage, calls = pyscipopt.SCIP_STAGE.INITSOLVE, 0

        def getStage(self) -> int:  # noqa: N802 - SCIP's name
            return self.stage

        def interruptSolve(self) -> None:  # noqa: N802
            self.calls += 1

    class Watch:
        reason = Status.INTERRUPTED

    model = Model()
    link = Link(pyscipopt, model, [])
    link.finish()
    assert model.calls == 0, "nothing to stop"
    link.watch = Watch()  # type: ignore[assignment]
    link.finish()
    assert model.calls == 0
    model.stage = pyscipopt.SCIP_STAGE.SOLVING
    link.finish()
    assert model.calls == 1


@pytest.mark.backend("highs")
@pytest.mark.parametrize("submips", [True, False])
def test_highs_without_submips_finds_the_same(submips: bool) -> None:
    for seed in range(4):
        model, start = search_model(seed)
        with registry.get("highs").open(model.milp, Settings(submips=submips)) as session:
            options = session._highs.getOptions()
            assert options.mip_heuristic_run_rens is submips
            result = session.solve(Limits(), start=start)
        with registry.get("highs").open(model.milp) as session:
            assert session.solve(Limits()).objective == pytest.approx(result.objective, abs=1e-6)


@pytest.mark.backend("highs")
@pytest.mark.parametrize("seed", range(8))
def test_highs_is_stopped_by_a_proposal_that_reaches_the_target(seed: int) -> None:
    """Given such a solution by callback it crashed."""
    model, start = search_model(seed)
    wanted = model.milp.value(start)
    given: list[int] = []

    def propose(_: np.ndarray | None) -> np.ndarray:
        given.append(1)
        return start

    with registry.get("highs").open(model.milp, Settings(presolve=False)) as session:
        result = session.solve(Limits(), target=wanted, callbacks=Callbacks(propose=propose))
        assert result.objective is not None
        assert result.objective >= wanted - 1e-9
        if given and result.status is Status.TARGET and result.x is not None:
            assert model.milp.violation(result.x) <= 1e-6
        assert session.solve(Limits()).status is Status.OPTIMAL


def test_allowed_seconds_grow_with_what_waits_for_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr("os.getloadavg", lambda: (6.0, 0.0, 0.0), raising=False)
    for text, expected in (
        ("0.10 0.2 0.3 1/300 7", 1.0),
        ("8.00 0.2 0.3 1/300 7", 4.0),
        ("0.10 0.2 0.3 10/300 7", 5.0),
        ("", 3.0),
    ):
        monkeypatch.setattr("pathlib.Path.read_text", lambda *_, text=text, **__: text)
        assert slowness() == expected
