"""The steps of a run: the parts named by options are checked; then bounds, falsifying and search work on a ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.backends.own_points import FailuresInRow
from stablenet.bounds import BoundMethod, Context
from stablenet.bounds import run as run_bounds
from stablenet.bounds.crown_layers import crown_layers
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline, SearchStoppedError
from stablenet.core.errors import InputError, SolverError
from stablenet.core.events import Event
from stablenet.core.files import check_target
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.core.options import Options
from stablenet.core.proofs import ProofLog
from stablenet.core.questions import SIDES
from stablenet.domain.regions import Domain
from stablenet.domain.samples import read_samples
from stablenet.domain.spec import read_domain
from stablenet.falsify.falsifier import Falsifier
from stablenet.find.choices import LOOK_UP, check_installed, check_together, solvers_of
from stablenet.formulations.base import Formulation
from stablenet.report.report import Report, check_arithmetic, check_belongs, network_to_json, resume_into
from stablenet.search.base import Problem, Search, bound_context, options_used, tolerances_used
from stablenet.search.certify import LEAST_SECONDS, certify, claims_of

OWN_WITNESSES = 300
"""How many of the newest witnesses are used to check a solver's answers about bounds."""


@contextmanager
def _timed(ledger: Ledger, what: str) -> Iterator[None]:
    began = time.monotonic()
    ledger.log.begin(what)
    try:
        yield
    finally:
        ledger.log.add_seconds(what, time.monotonic() - began)


class Setup:
    """The parts that options name, checked before any work is done.

    ``resume`` is a report to start from, in place of the file that the options name.
    """

    def __init__(self, network: Network, domain: Domain, options: Options, *, resume: Report | None = None) -> None:
        self.network = network
        self.domain = read_domain(domain, network.n_inputs)
        self.options = options
        self.bounds: BoundMethod = LOOK_UP["bounds"](options.bounds)
        self.formulation: Formulation = LOOK_UP["formulation"](options.formulation)
        solvers = solvers_of(options)
        self.backend = solvers[0]
        self.search: Search = LOOK_UP["search"](options.search)
        self.failures = FailuresInRow()
        for path in (options.log_path, options.proof):
            if path is not None:
                check_target(Path(path))
        if self.search.needs_solver:
            check_together(self.formulation, options)
            for solver in solvers:
                check_installed(solver)
        self.samples = None if options.samples is None else read_samples(Path(options.samples), network.n_inputs)
        self.resume = Report.read(options.resume) if resume is None and options.resume is not None else resume
        if self.resume is not None:
            check_belongs(self.resume, network, domain)
            check_arithmetic(self.resume, options.arithmetic)

    def ledger(self, send: Callable[[Event], None] | None = None) -> Ledger:
        """A new ledger with all questions open; ``send`` is given its events."""
        return Ledger([layer.size for layer in self.network.layers], len(self.domain.parts), send)

    def describe(self) -> dict[str, dict[str, Any]]:
        """What the report says of the run's input: ``network``, ``domain`` and ``options``, as plain values."""
        return {
            "network": network_to_json(self.network, self.domain),
            "domain": self.domain.to_json(),
            "options": self.options.to_json(),
        }


def find(setup: Setup, ledger: Ledger, deadline: Deadline) -> str | None:
    """Run the steps on a ledger. Returns the stop reason, None if the search ended by itself.

    Raises `SolverError` and the like with all that was found in the ledger; a contradiction does not raise, it
    stands in the ledger.
    """
    proof = None if setup.options.proof is None else _proof(setup)
    falsifier = _falsifier(setup, ledger, deadline)
    try:
        return _search_and_certify(setup, before_search(setup, ledger, deadline, falsifier, proof))
    except SearchStoppedError as stop:
        return stop.reason
    except MemoryError:
        return "memory"
    finally:
        left = ledger.pending() & falsifier.witnesser.uncertain
        for side in SIDES if left.any() else ():
            ledger.set_borderline(side, np.flatnonzero(left[side]))
        if proof is not None:
            proof.close()


def _falsifier(setup: Setup, ledger: Ledger, deadline: Deadline) -> Falsifier:
    rng = np.random.default_rng(setup.options.seed)
    sharpen = partial(bounds_at, setup.network)
    return Falsifier(setup.network, setup.domain, ledger, rng, lambda: deadline.over, sharpen=sharpen)


def before_search(
    setup: Setup,
    ledger: Ledger,
    deadline: Deadline,
    falsifier: Falsifier | None = None,
    proof: ProofLog | None = None,
) -> Problem:
    """All that comes before the search: a report to start from, bounds, falsifying. Returns what the search is given.

    Raises `SearchStoppedError` at the deadline.
    """
    options = setup.options
    falsifier = falsifier or _falsifier(setup, ledger, deadline)
    ledger.log.set_tolerances(tolerances_used(options))
    if setup.resume is not None:
        with _timed(ledger, "load"):
            resume_into(setup.resume, ledger, falsifier.witnesser, believe=proof is None or proof.appended)
    with _timed(ledger, "bounds"):
        bounds = _bound(setup, ledger, deadline, falsifier, proof)
    with _timed(ledger, "falsify"):
        if setup.samples is not None:
            falsifier.samples(setup.samples)
        if options.falsify and not ledger.complete:
            falsifier.run()
    deadline.check()
    return Problem(
        setup.network, setup.domain, ledger, bounds, setup.formulation, setup.backend, options, falsifier,
        falsifier.rng, deadline, proof, failures=setup.failures,
    )  # fmt: skip


def bounds_at(network: Network, points: Array, n_layers: int) -> list[tuple[Array, Array]]:
    """Bounds of all evaluations of the first layers at points, (b, n_inputs): per layer (lower, upper), (b, n_k)."""
    return crown_layers(network, points, points, up_to=n_layers)


def _search_and_certify(setup: Setup, problem: Problem) -> str | None:
    """Search, then prove what a solver refuted, even where the search stopped early. Returns the stop reason."""
    reason: str | None = None
    failure: SolverError | None = None
    try:
        if not problem.ledger.complete:
            _search(setup, problem)
    except SearchStoppedError as stop:
        reason = stop.reason
    except SolverError as error:
        failure = error
    asked = setup.options.certify and claims_of(problem.ledger).any()
    if asked and reason not in {"interrupt", "memory"}:
        with _timed(problem.ledger, "certify"):
            certify(problem, max(LEAST_SECONDS, _solver_seconds(setup, problem.ledger)))
    if failure is not None:
        raise failure
    return reason


def _search(setup: Setup, problem: Problem) -> None:
    if setup.search.needs_solver:
        problem.ledger.log.set_solver_options(options_used(setup.options))
    with _timed(problem.ledger, "search"):
        try:
            setup.search.run(problem)
        except InputError as error:
            if type(error) is not InputError:
                raise
            # The model has numbers that no solver takes; what was found before is kept.
            raise SolverError(f"the search's model cannot be given to a solver: {error}") from None


def _solver_seconds(setup: Setup, ledger: Ledger) -> float:
    """Seconds that solvers took for all refutations. Solves on several threads overlap, so no more than their steps
    took.
    """
    log = ledger.log
    runs = [(log.solves, log.seconds)]
    if setup.resume is not None:
        runs.append((setup.resume.data["solves"], setup.resume.data["seconds"]))
    taken = 0.0 if setup.bounds.rigorous else log.seconds["bounds"]
    for solves, seconds in runs:
        taken += min(seconds.get("search", 0.0), sum(row.get("solver_s") or 0.0 for row in solves))
    return taken


def _proof(setup: Setup) -> ProofLog:
    parts = len(setup.domain.parts)
    again = setup.resume is not None
    return ProofLog(str(setup.options.proof), setup.network.identity, setup.domain.digest, parts, resume=again)


def _bound(
    setup: Setup, ledger: Ledger, deadline: Deadline, falsifier: Falsifier, proof: ProofLog | None
) -> list[Bounds]:
    """Bounds of every part, entered in the ledger; intervals first, so that a report always has some."""
    parts, options = setup.domain.parts, setup.options
    context = bound_context(options, setup.backend, deadline)
    context.progress, context.failed = ledger.log.progress, ledger.log.add_solver_failure
    context.failures = setup.failures
    bounds = []
    for number, part in enumerate(parts):
        plain = Context(proof=None if proof is None else proof.parts[number], deadline=deadline)
        plain.failed, plain.failures = context.failed, context.failures
        bounds.append(run_bounds("interval", setup.network, part, plain))
        ledger.set_bounds(number, bounds[-1])
    for number, part in enumerate(parts):
        deadline.check()
        context.proof = None if proof is None else proof.parts[number]
        context.points = partial(own_points, falsifier, number)
        keep = context.keep = partial(_keep, ledger, context, number, decide=options.decide_by_bounds)
        if setup.bounds.name != "interval":
            bounds[number] = setup.bounds.run(setup.network, part, context)
        keep(bounds[number])
    return bounds


def own_points(falsifier: Falsifier, part: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Points of a part that disprove wrong answers of solvers: its probe and known witnesses, (b, n_inputs)."""
    probe = falsifier.probe(part)
    found = falsifier.ledger.inside(part)[-OWN_WITNESSES:]
    points = probe.points[probe.inside[part]]
    return np.concatenate([points, found]) if len(found) else points


def _keep(ledger: Ledger, context: Context, part: int, bounds: Bounds, *, decide: bool) -> None:
    """Enter a part's bounds, what they decide, and what they have cost since the last time."""
    ledger.set_bounds(part, bounds)
    if decide:
        ledger.refute_by_bounds(part, bounds)
    while context.costs:
        ledger.log.add_tightening(context.costs.pop(0))
