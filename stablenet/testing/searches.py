"""Conformance suite for searches: a search may leave questions open, and may never decide one wrongly.

For the author of a search, with pytest::

    import pytest
    from stablenet.testing import searches as suite

    @pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(MySearch())

Each check takes a search (or its specification), runs it on small networks whose true answers are known by enumeration,
and raises `ConformanceError` that names a false decision. A search that closes nothing passes; `closed`
says how much it closes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from stablenet.backends.base import Backend
from stablenet.core.arrays import Array
from stablenet.core.deadline import Deadline
from stablenet.core.errors import ContradictionError, SolverError
from stablenet.core.ledger import Ledger
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.core.options import Options
from stablenet.core.questions import NEGATIVE, POSITIVE, SIDE_NAMES, State, Verdict
from stablenet.domain.regions import Box, Domain, Union
from stablenet.find.pipeline import Setup, find
from stablenet.search.base import Search, registry
from stablenet.testing.bounds import polytopes
from stablenet.testing.exact import exact_pre_activations
from stablenet.testing.formulation_instances import extremes, instances
from stablenet.testing.liar import Liar
from stablenet.testing.suite import demand, slowness

SLACK = 1e-6
"""How far a sign may be reached although it was refuted without rigour: a solver works within tolerances."""

RIGOROUS = 1e-9
"""The same for rigorous refutations: the error of the enumeration's linear programs."""

SECONDS = 20.0
"""Seconds that a search may take for one of these networks on an idle machine."""


@dataclass(frozen=True)
class Task:
    """A network, a domain, and how small and large every pre-activation gets on each of its parts."""

    label: str
    network: Network
    domain: Domain

    @property
    def truth(self) -> tuple[Array, Array]:
        """Least and greatest pre-activations on each part, (parts, n_neurons), as enumeration finds them."""
        found = [extremes(self.network, part) for part in self.domain.parts]
        return tuple(np.stack([np.concatenate([layer[i] for layer in part]) for part in found]) for i in (0, 1))  # type: ignore[return-value]


def identity_on_two_sides() -> Task:
    """G = x on [-1, -0.5] and on [0.5, 1]: each sign is excluded on one part, none on the whole, and g is unstable."""
    affine = AffineMap(np.zeros(1), (Term(0, np.ones((1, 1))),))
    network = Network(1, (Layer(affine, "relu0", (1,)),), AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))),)))
    sides = Union([Box(np.array([-1.0]), np.array([-0.5])), Box(np.array([0.5]), np.array([1.0]))])
    return Task("g = x on both sides of 0", network, sides)


@cache
def hidden_spot() -> Task:
    """Signs that show within 0.01 of one point only (1-norm), which no corner and hardly a sample meets."""
    spot = np.array([0.3, -0.4, 0.55])
    n = len(spot)
    first = AffineMap(np.concatenate([-spot, spot]), (Term(0, np.concatenate([np.eye(n), -np.eye(n)])),))
    distance = np.ones(2 * n)  # the sum of |x - spot|
    second = AffineMap(np.array([0.01, -0.01, -0.01]), (Term(1, np.stack([-distance, distance, -distance])),))
    layers = (Layer(first, "relu0", (2 * n,)), Layer(second, "relu1", (3,)))
    network = Network(n, layers, AffineMap(np.zeros(1), (Term(2, np.ones((1, 3))),)))
    return Task("signs that show near one point only", network, Box(-np.ones(n), np.ones(n)))


@cache
def tasks() -> tuple[Task, ...]:
    """Boxes, unions of boxes, polytopes; exact ties at 0; signs that hide near one point."""
    found = [Task(i.label, i.network, i.part) for i in instances()]
    for instance in instances()[:3]:
        middle = (instance.part.lower + instance.part.upper) / 2
        halves = [Box(instance.part.lower, middle), Box(middle, instance.part.upper)]
        found.append(Task(f"{instance.label}, two boxes", instance.network, Union(halves)))
    found += [Task(label, network, part) for label, network, part in polytopes()[:3]]
    return (*found, identity_on_two_sides())


def run_on(
    search: Search,
    task: Task,
    *,
    falsify: bool = False,
    seconds: float | None = None,
    backend: Backend | None = None,
) -> Ledger:
    """The ledger after a search on a task, with interval bounds that decide nothing more than they must.

    ``seconds`` are a deadline; ``backend`` stands in for the solver. A solver that fails and a contradiction that is
    found end the search, as in a run.
    """
    # Without certifying, so that the ledger is as the search left it.
    options = Options(bounds="interval", search="off", falsify=falsify, threads=1, certify=False)
    setup = Setup(task.network, task.domain, options)
    setup.search = search
    if backend is not None:
        setup.backend = backend
    ledger = Ledger([layer.size for layer in task.network.layers], len(task.domain.parts))
    with contextlib.suppress(SolverError, ContradictionError):
        find(setup, ledger, Deadline(SECONDS * slowness() if seconds is None else seconds))
    return ledger


def _search(search: str | Search) -> Search:
    return registry.get(search) if isinstance(search, str) else search


def _complaints(search: Search, task: Task, ledger: Ledger, *, rigorous_only: bool = False) -> Iterator[str]:
    """False entries of the ledger."""
    low, high = task.truth
    reach = np.stack([high, -low], axis=1)  # (parts, 2, n): how far each sign is reached
    assert (POSITIVE, NEGATIVE) == (0, 1)  # noqa: S101 - the order of `reach`
    size = np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))[:, None, :]
    slack = np.where(ledger.part_rigorous, RIGOROUS, SLACK) * size
    wrong = (ledger.part_by >= 0) & (reach > slack)
    if rigorous_only:
        wrong &= ledger.part_rigorous
    for part, side, index in np.argwhere(wrong).tolist():
        layer, neuron = ledger.locate(index)
        source = ledger.sources[ledger.part_by[part, side, index]]
        yield (
            f"search {search.name!r}, {task.label}: {source!r} refutes on part {part} that neuron {neuron} of layer "
            f"{layer} can be {SIDE_NAMES[side]}, and it gets to {(high if side == POSITIVE else low)[part, index]:.6g}"
        )


def _replay(search: Search, task: Task, ledger: Ledger) -> Iterator[str]:
    """Witnesses that show nothing, or lie outside of the domain, in exact arithmetic."""
    for side, index in np.argwhere(ledger.states == State.WITNESSED).tolist():
        point = ledger.points[int(ledger.witness[side, index])]
        layer, neuron = ledger.locate(index)
        value = exact_pre_activations(task.network, point)[layer][neuron]
        shown = value > 0 if side == POSITIVE else value < 0
        if not (shown and task.domain.contains(point)[0]):
            where = f"witness of neuron {neuron} of layer {layer} {SIDE_NAMES[side]}"
            yield f"search {search.name!r}, {task.label}: the {where} gives {float(value):.6g}, or is outside"


def _raise_first(complaints: Iterator[str]) -> None:
    for words in complaints:
        demand(condition=False, complaint=words)


def true_refutations(search: str | Search) -> None:
    """No question is refuted that some input shows: on boxes, unions and polytopes, for ties at 0 too."""
    chosen = _search(search)
    for task in (*tasks(), hidden_spot()):
        for falsify in (False, True):
            _raise_first(_complaints(chosen, task, run_on(chosen, task, falsify=falsify)))


def true_witnesses(search: str | Search) -> None:
    """Every witness is a point of the domain that shows what it stands for, in exact arithmetic."""
    chosen = _search(search)
    for task in tasks():
        _raise_first(_replay(chosen, task, run_on(chosen, task)))


def parts_by_question(search: str | Search) -> None:
    """A sign that is excluded on one part only is not excluded on the union."""
    chosen = _search(search)
    task = identity_on_two_sides()
    ledger = run_on(chosen, task)
    verdict = Verdict(int(ledger.verdicts[0]))
    demand(
        verdict in {Verdict.UNSTABLE, Verdict.UNKNOWN},
        f"search {chosen.name!r}: {task.label} ends as {verdict.name.lower()}, and is unstable",
    )


def no_time(search: str | Search) -> None:
    """A deadline ends the search soon, with nothing decided wrongly."""
    chosen = _search(search)
    for task in (tasks()[0], hidden_spot()):
        for seconds in (0.0, 0.05):
            began = time.monotonic()
            ledger = run_on(chosen, task, seconds=seconds)
            took = time.monotonic() - began
            most = seconds + 2.0 * slowness()
            demand(took < most, f"search {chosen.name!r}: {took:.1f} s with a deadline of {seconds} s")
            _raise_first(_complaints(chosen, task, ledger))


def it_ends(search: str | Search) -> None:
    """A search ends even where a neuron's pre-activation, or its maximum, is 0."""
    chosen = _search(search)
    dead = AffineMap(np.array([0.0, -1.0]), (Term(0, np.array([[1.0, -1.0], [1.0, 0.0]])),))
    after = AffineMap(np.zeros(2), (Term(1, np.array([[0.0, 1.0], [1.0, 1.0]])),))
    layers = (Layer(dead, "relu0", (2,)), Layer(after, "relu1", (2,)))
    network = Network(2, layers, AffineMap(np.zeros(1), (Term(2, np.ones((1, 2))),)))
    task = Task("pre-activations that just touch 0", network, Box(np.zeros(2), np.ones(2)))
    began = time.monotonic()
    ledger = run_on(chosen, task)
    took, most = time.monotonic() - began, SECONDS * slowness()
    demand(took < 0.9 * most, f"search {chosen.name!r}: {took:.0f} s for neurons that just touch 0")
    _raise_first(_complaints(chosen, task, ledger))


def solvers_are_not_rigorous(search: str | Search) -> None:
    """With a solver that gives false answers, no false refutation is called rigorous."""
    chosen = _search(search)
    for task in (*tasks()[:2], hidden_spot()):
        _raise_first(_complaints(chosen, task, run_on(chosen, task, backend=Liar()), rigorous_only=True))


def repeatable(search: str | Search) -> None:
    """The same run gives the same verdicts, and leaves network and domain as they were."""
    chosen = _search(search)
    for task in tasks()[:3]:
        before = task.domain.digest
        first, second = (run_on(chosen, task).verdicts for _ in range(2))
        demand(np.array_equal(first, second), f"search {chosen.name!r}, {task.label}: other verdicts the second time")
        copy = Network(task.network.n_inputs, task.network.layers, task.network.output)
        same = copy.content_digest == task.network.content_digest and task.domain.digest == before
        demand(same, f"search {chosen.name!r} changed the network or the domain")


CHECKS: tuple[Callable[[str | Search], None], ...] = (
    true_refutations,
    true_witnesses,
    parts_by_question,
    no_time,
    it_ends,
    solvers_are_not_rigorous,
    repeatable,
)
"""All checks, in the order in which failures are best read."""


def run_all(search: str | Search) -> None:
    """Run all checks; raises the first `ConformanceError`."""
    for check in CHECKS:
        check(search)


def closed(search: str | Search, only: Sequence[Task] | None = None) -> float:
    """The share of the questions that interval bounds leave pending which the search closes; no check."""
    chosen, off = _search(search), registry.get("off")
    open_before = open_after = 0
    for task in only or tasks():
        open_before += run_on(off, task).n_pending
        open_after += run_on(chosen, task).n_pending
    return 1.0 - open_after / open_before if open_before else 1.0
