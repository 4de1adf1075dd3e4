"""What bound methods take, keep and report: arguments, deadlines, progress, costs, rigour, solvers that lie."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from stablenet.backends.base import Limits, RelaxResult, Session, Settings
from stablenet.backends.highs import Highs, HighsSession
from stablenet.formulations.base import registry as formulations

from stablenet.bounds import Context, registry, run
from stablenet.bounds.layer_model import LayerModel
from stablenet.bounds.lp_tightening import safe_upper_bound
from stablenet.core.deadline import Deadline
from stablenet.core.errors import InputError, UnknownNameError, UnsupportedError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, LinfBall
from stablenet.testing.suite import slowness

TIGHTENING = ["crown-alpha", "lp", "lp:hull", "milp", "rolling:1", "progressive", "branch"]


def dense(sizes: tuple[int, ...], seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    maps = [
        AffineMap(rng.normal(size=m) * 0.2, (Term(k, rng.normal(size=(m, n)) * np.sqrt(2.0 / n)),))
        for k, (n, m) in enumerate(pairwise(sizes))
    ]
    layers = tuple(Layer(affine, name=f"relu{k}", shape=(affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(sizes[0], layers, maps[-1])


NET = dense((5, 10, 10, 10, 2))
PART = LinfBall(np.full(5, 0.3), 0.4)


def extremes(network: Network, part: Box, n: int = 20_000) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    points = part.lower + (part.upper - part.lower) * rng.random((n, network.n_inputs))
    points = np.concatenate([points, np.where(rng.random((n, network.n_inputs)) < 0.5, part.lower, part.upper)])
    return [(g.min(axis=0), g.max(axis=0)) for g in network.pre_activations(points)]


def width(bounds: Any) -> float:
    return float(sum((layer.upper - layer.lower).sum() for layer in bounds.layers))


@pytest.mark.parametrize("spec", TIGHTENING)
def test_tightening_holds_and_gains(spec: str) -> None:
    context = Context(threads=2)
    bounds, crown = run(spec, NET, PART, context), run("crown", NET, PART)
    for layer, (low, high) in zip(bounds.layers, extremes(NET, PART), strict=True):
        assert (layer.lower <= low + 1e-7).all()
        assert (layer.upper >= high - 1e-7).all()
    assert width(bounds) < 0.97 * width(crown)
    assert {row["layer"] for row in context.costs} <= {1, 2}
    assert sum(row["tightened"] for row in context.costs) > 0
    assert all(row["seconds"] >= 0 and row["questions"] > 0 for row in context.costs)


@pytest.mark.parametrize("spec", ["crown-alpha", "lp", "milp", "branch:2"])
def test_tightening_goes_on_from_bounds_at_hand(spec: str) -> None:
    """What is known is kept, improved, and makes what rests on it no more rigorous than itself."""
    known = run("crown", NET, PART)
    found = run(spec, NET, PART, Context(known=known, n_layers=2))
    for layer, old, (low, high) in zip(found.layers, known.layers, extremes(NET, PART), strict=True):
        assert (old.lower <= layer.lower).all()
        assert (layer.upper <= old.upper).all()
        assert (layer.lower <= low + 1e-7).all()
        assert (layer.upper >= high - 1e-7).all()
    assert found.layers[2] is known.layers[2]
    assert width(found) < width(known)
    doubtful = known.tighten("milp", 0, known.layers[0].lower + 1e-9, known.layers[0].upper, rigorous=False)
    after = run(spec, NET, PART, Context(known=doubtful)).layers
    fresh = after[1].lower > known.layers[1].lower
    assert fresh.any()
    assert not after[1].lower_rigorous[fresh].any()


def test_each_stage_is_at_least_as_tight_as_theory_says() -> None:
    """Same layer, same bounds before it: CROWN, alpha, the LP, the rolling window, the MILP."""
    widths = {}
    for spec in ("crown", "crown-alpha:60", "lp", "rolling:1", "milp:10000", "branch:4000"):
        layer = run(spec, dense((5, 10, 10, 2)), PART).layers[1]
        widths[spec] = float((layer.upper - layer.lower).sum())
    assert widths["lp"] <= widths["crown-alpha:60"] + 1e-6 <= widths["crown"] + 1e-6
    # The MILPs stop once a sign is known: of the neurons that are left, they know the exact range.
    assert widths["rolling:1"] == pytest.approx(widths["milp:10000"], abs=1e-4)
    assert widths["milp:10000"] < 0.99 * widths["lp"]
    assert widths["branch:4000"] < 0.99 * widths["lp"]


def test_alpha_comes_close_to_the_linear_program() -> None:
    network = dense((5, 10, 10, 2))
    crown, alpha, lp = (width(run(spec, network, PART)) for spec in ("crown", "crown-alpha:200", "lp"))
    assert crown - alpha > 0.9 * (crown - lp) > 0


def test_branching_to_the_end_is_exact() -> None:
    """With leaves to spare nothing but truly unstable neurons is left undecided in the second layer."""
    network = dense((3, 8, 8, 2), seed=4)
    part = LinfBall(np.zeros(3), 0.8)
    low, high = extremes(network, part)[1]
    for spec in ("branch:3000", "milp:3000"):
        left = run(spec, network, part).layers[1].phase == 0
        assert (left == ((low < 0) & (high > 0))).all()


@pytest.mark.parametrize("name", list(formulations.names()))
def test_lp_over_every_formulation(name: str) -> None:
    network = dense((3, 5, 4, 2))
    part = LinfBall(np.zeros(3), 0.5)
    spec = f"lp:{name}"
    bounds = run(spec, network, part)
    for layer, (low, high) in zip(bounds.layers, extremes(network, part), strict=True):
        assert (layer.lower <= low + 1e-7).all()
        assert (layer.upper >= high - 1e-7).all()
    assert registry.get(spec).rigorous == (name in {"relaxed", "bigm"})


@pytest.mark.parametrize("spec", TIGHTENING)
def test_the_deadline_keeps_what_there_is(spec: str) -> None:
    network = dense((20, 60, 60, 60, 60, 2))
    part = LinfBall(np.zeros(20), 1.0)
    crown = run("crown", network, part)
    began = time.monotonic()
    bounds = run(spec, network, part, Context(deadline=Deadline(0.3)))
    assert time.monotonic() - began < 0.3 + 10.0 * slowness()
    for mine, known in zip(bounds.layers, crown.layers, strict=True):
        assert (mine.lower >= known.lower).all()
        assert (mine.upper <= known.upper).all()


def test_progress_comes_to_its_end() -> None:
    seen: list[tuple[str, int, int]] = []
    run("lp", NET, PART, Context(progress=lambda *args: seen.append(args)))
    assert {stage for stage, _, _ in seen} == {"lp, layer 1", "lp, layer 2"}
    for stage in {stage for stage, _, _ in seen}:
        counts = [(done, total) for name, done, total in seen if name == stage]
        assert [done for done, _ in counts] == list(range(1, counts[0][1] + 1))


def test_rigour_is_inherited() -> None:
    """CROWN over bounds by MILP proves nothing rigorously."""
    bounds = run("milp", NET, PART)
    assert bounds.layers[0].upper_rigorous.all()
    assert not bounds.layers[1].upper_rigorous.all()
    last, crown = bounds.layers[2], run("crown", NET, PART).layers[2]
    better = last.upper < crown.upper
    assert better.any()
    assert not last.upper_rigorous[better].any()


def test_threads_and_seed_change_no_bound() -> None:
    one, two = (run("lp", NET, PART, Context(threads=n)) for n in (1, 3))
    for a, b in zip(one.layers, two.layers, strict=True):
        assert np.allclose(a.upper, b.upper, atol=1e-8)
        assert np.allclose(a.lower, b.lower, atol=1e-8)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("crown-alpha:0", "whole number"),
        ("crown-alpha:x", "whole number"),
        ("branch:-1", "whole number"),
        ("milp:0", "whole number"),
        ("milp:0s", "seconds"),
        ("milp:nans", "seconds"),
        ("rolling:", "whole number"),
        ("progressive:interval", "crown-alpha"),
        ("progressive:", "stages"),
        ("loose:2", "no argument"),
    ],
)
def test_bad_arguments_are_told(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        registry.get(spec)


def test_unknown_formulation_in_lp_lists_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match="bigm"):
        registry.get("lp:nothing")


def test_milp_limited_by_time_on_a_solver_without_node_limit() -> None:
    class NoNodes(Highs):
        name = "no-nodes"

        def __init__(self) -> None:
            self.capabilities = Highs.capabilities - {c for c in Highs.capabilities if c.name == "NODE_LIMIT"}

    context = Context(backend=NoNodes())
    with pytest.raises(UnsupportedError, match=r"node limit.*milp:10s"):
        run("milp", NET, PART, context)
    assert width(run("milp:2s", NET, PART, context)) < width(run("crown", NET, PART))


class Liar(Highs):
    """Answers every LP with duals that are off, as a solver with wide tolerances or a bug would."""

    name = "liar"

    def open(self, milp: Any, settings: Any = None) -> Any:
        return LyingSession(self, milp, Settings())


class LyingSession(HighsSession):
    def relax(self, limits: Any) -> RelaxResult:
        answer = super().relax(limits)
        assert answer.row_duals is not None
        rng = np.random.default_rng(0)
        duals = answer.row_duals * rng.uniform(0.5, 1.5, len(answer.row_duals)) + rng.normal(size=len(answer.row_duals))
        return RelaxResult(answer.status, "", 1e6, answer.x, duals, answer.reduced_costs, 0.0)


@pytest.mark.parametrize("spec", ["lp", "lp:hull"])
def test_no_solver_can_make_an_lp_bound_wrong(spec: str) -> None:
    bounds = run(spec, NET, PART, Context(backend=Liar()))
    for layer, (low, high) in zip(bounds.layers, extremes(NET, PART), strict=True):
        assert (layer.lower <= low + 1e-12).all()
        assert (layer.upper >= high - 1e-12).all()


def test_the_safe_bound_needs_only_multipliers() -> None:
    """Whatever the multipliers, no point of the LP lies above the bound; with optimal ones it is the optimum."""
    bounds = run("crown", NET, PART)
    model = LayerModel(NET, PART, bounds, 2, formulation=formulations.get("hull"), margin=0.0)
    affine = NET.layers[2].affine
    objective, constant = model.objective(affine, 0, 1.0)
    session: Session
    with Highs().open(model.milp) as session:
        session.change_objective(objective, constant, maximize=True)
        answer = session.relax(Limits())
    assert answer.objective is not None
    assert answer.row_duals is not None
    tight = safe_upper_bound(model.milp, objective, constant, answer.row_duals)
    assert answer.objective - 1e-9 <= tight <= answer.objective + 1e-6
    rng = np.random.default_rng(2)
    for _ in range(20):
        wrong = answer.row_duals + rng.normal(size=len(answer.row_duals)) * 10.0 ** rng.uniform(-9, 1)
        assert safe_upper_bound(model.milp, objective, constant, wrong) >= answer.objective - 1e-9


def test_loose_decides_nothing() -> None:
    loose, interval = run("loose", NET, PART), run("interval", NET, PART)
    for wide, known in zip(loose.layers, interval.layers, strict=True):
        assert not wide.phase.any()
        assert (wide.upper == 2 * np.maximum(known.upper, 1.0)).all()
        assert (wide.lower == -2 * np.maximum(-known.lower, 1.0)).all()
