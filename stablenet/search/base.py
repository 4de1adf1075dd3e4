"""The interface of a search, which closes the pending questions of a ledger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from stablenet.backends.base import Backend, Callbacks, Capability, Limits, Session, Settings, SolveResult, Tolerance
from stablenet.backends.base import registry as backends
from stablenet.backends.native_options import changed_options, check_options, parse_options
from stablenet.backends.own_points import CheckedSession, FailuresInRow, SolverFailure
from stablenet.bounds import Context
from stablenet.core.arrays import Array, Mask
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline, SearchStoppedError
from stablenet.core.errors import UnsupportedError
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.core.options import Options
from stablenet.core.proofs import PartProof, ProofLog
from stablenet.core.questions import NEGATIVE, POSITIVE
from stablenet.core.registry import Registry, refuse_argument
from stablenet.domain.regions import Domain
from stablenet.falsify.falsifier import Falsifier
from stablenet.formulations.base import Formulation
from stablenet.milp.arrays import MILP
from stablenet.search.trusted import TrustedBounds


def tolerance_of(options: Options, backend: Backend) -> Tolerance:
    """A solver's tolerances and margin: its own, or with ``margin`` that one and at most a tenth of it.

    A solver that is left at its defaults keeps their tolerances, whatever the margin.
    """
    own = backend.default_tolerance if options.solver_defaults else backend.tolerance
    if options.solver_defaults and options.margin is not None:
        return Tolerance(own.feasibility, own.integrality, options.margin)
    if options.margin is None:
        return own
    most = options.margin / 10.0 if options.margin > 0 else np.inf
    return Tolerance(min(own.feasibility, most), min(own.integrality, most), options.margin)


def tolerances_used(options: Options) -> list[dict[str, Any]]:
    """The tolerances and margin of each solver of a run, for the report."""
    names = [name for name in (options.solver, options.check_with) if name is not None]
    rows = []
    for name in dict.fromkeys(names):
        chosen = tolerance_of(options, backends.get(name))
        rows.append({"solver": name, **vars(chosen), "slack": chosen.slack})
    return rows


def solver_settings(options: Options, backend: Backend) -> Settings:
    """Tolerances and log of a solver of a run. Sub-MIPs are off, since witnesses are found by forward passes."""
    chosen = tolerance_of(options, backend)
    texts = options.solver_options if backend.spec == backends.get(options.solver).spec else ()
    return Settings(
        feasibility=chosen.feasibility,
        integrality=chosen.integrality,
        submips=False,
        log=options.log_path,
        defaults=options.solver_defaults,
        options=tuple(parse_options(backend, texts).items()),
    )


def options_used(options: Options) -> list[dict[str, Any]]:
    """Every option of the solvers of a run that differs from the solver's own default, for its report."""
    names = [name for name in (options.solver, options.check_with) if name is not None]
    rows = []
    for name in dict.fromkeys(names):
        backend = backends.get(name)
        changed = changed_options(backend, solver_settings(options, backend))
        rows += [
            {"solver": name, "option": option, "value": value, "default": default}
            for option, (value, default) in sorted(changed.items())
        ]
    return rows


def bound_context(options: Options, backend: Backend, deadline: Deadline) -> Context:
    """What the bound methods of a run may use."""
    return Context(
        backend=backend,
        settings=solver_settings(options, backend),
        margin=tolerance_of(options, backend).margin,
        threads=options.threads,
        seed=options.seed,
        memory_limit=options.memory_limit,
        deadline=deadline,
    )


@dataclass(eq=False)
class Problem:
    """All that a search works with.

    ``found`` are the bounds of each part of the domain as the search begins, ``bounds`` those that no withdrawn source
    has touched.
    """

    network: Network
    domain: Domain
    ledger: Ledger
    found: InitVar[list[Bounds]]
    formulation: Formulation
    backend: Backend
    options: Options
    falsifier: Falsifier
    rng: np.random.Generator
    deadline: Deadline
    proof: ProofLog | None = None
    leaf_solver: Backend | None = None
    """A solver whose dual solutions are choices for leaves of `branch` that descent does not close; need not be
    correct."""
    failures: FailuresInRow = field(default_factory=FailuresInRow)
    """Failures of the run's solvers, those under its bounds included."""
    bounds: TrustedBounds = field(init=False)
    refuted_before: Mask = field(init=False)
    """Questions refuted on each part before the search began, (parts, 2, n)."""
    leaves: npt.NDArray[np.int64] = field(init=False)
    """Leaves of the trees, and boxes, by which rigorous searches refuted each question on the current part, (2, n)."""

    def __post_init__(self, found: list[Bounds]) -> None:
        decide = self.options.decide_by_bounds
        self.bounds = TrustedBounds(self.network, self.domain, self.ledger, found, decide=decide)
        self.refuted_before = self.ledger.part_by >= 0
        self.leaves = np.zeros((2, self.ledger.n_neurons), np.int64)

    def proof_of(self, part: int) -> PartProof | None:
        """The record of a part's certificates; None without a proof file."""
        return None if self.proof is None else self.proof.parts[part]

    def refuted(self, part: int) -> Mask:
        """Refuted questions of a part, (2, n), that models may use; without `tighten` only those from before the
        search.
        """
        refuted = np.asarray(self.ledger.part_by[part] >= 0)
        return refuted if self.options.tighten else refuted & self.refuted_before[part]

    def pending(self, part: int) -> Mask:
        """Questions of a part, (2, n), that a search works on. In float32 arithmetic those are left out which some
        evaluation, but not every one, may show at a known point: nothing can refute them.
        """
        return np.asarray(self.ledger.pending(part) & ~self.falsifier.witnesser.uncertain)

    def known(self, part: int, by: str, *, rigorous: bool = False) -> Bounds:
        """A part's bounds, with what was refuted on it (all, or only what is rigorous) entered as bounds by ``by``."""
        refuted, proven = self.refuted(part), self.ledger.part_rigorous[part]
        chosen = refuted & proven if rigorous else refuted
        bounds = self.bounds[part]
        for k, layer in enumerate(bounds.layers):
            inside, none = self.ledger.layer_slice(k), np.full(len(layer.lower), np.nan)
            upper = np.where(chosen[POSITIVE, inside], 0.0, np.nan)
            bounds = bounds.tighten(by, k, none, upper, rigorous=proven[POSITIVE, inside])
            # Both refuted: g is 0; bounds that cross by rounding must not.
            lower = np.where(chosen[NEGATIVE, inside], np.minimum(0.0, bounds.layers[k].upper), np.nan)
            bounds = bounds.tighten(by, k, lower, none, rigorous=proven[NEGATIVE, inside])
        return bounds

    @property
    def margin(self) -> float:
        """Relaxation of each row of the scaled model: the largest that a solver of the run needs."""
        return max(float(row["margin"]) for row in tolerances_used(self.options))

    def slack(self, backend: Backend) -> float:
        """How far below 0 a bound has to be to refute a question; none in the paper's model."""
        chosen = tolerance_of(self.options, backend)
        return chosen.slack if chosen.margin > 0 else 0.0

    def open(
        self, milp: MILP, own: Callable[[MILP], float | None], by: str, *, backend: Backend | None = None
    ) -> CheckedSession:
        """Load a model in the problem's solver or another; answers are checked against ``own``, see
        `CheckedSession`.
        """
        chosen = backend or self.backend

        def failed(failure: SolverFailure) -> None:
            self.ledger.log.add_solver_failure(failure.to_json(by))

        settings = solver_settings(self.options, chosen)
        return CheckedSession(chosen, milp, settings, own=own, failed=failed, failures=self.failures)

    @property
    def given_up(self) -> bool:
        """Whether a solver of the run has failed so often that no search asks it anything more."""
        names = (self.options.solver, self.options.check_with)
        return any(self.failures.given_up(backends.get(name).title) for name in names if name is not None)

    @property
    def context(self) -> Context:
        """What bound methods may use."""
        context = bound_context(self.options, self.backend, self.deadline)
        context.failed, context.failures = self.ledger.log.add_solver_failure, self.failures
        return context

    def limits(
        self, *, time_limit: float | None = None, nodes: int | None = None, backend: Backend | None = None
    ) -> Limits:
        """Limits of one solve: what is left of the run's, or less.

        Threads, seed, nodes and memory are set only where the solver has such limits; without its own memory limit
        that of the engine process applies.
        """
        self.deadline.check()
        left = self.deadline.left
        if time_limit is not None:
            left = time_limit if left is None else min(left, time_limit)
        has = (backend or self.backend).supports
        return Limits(
            time=left,
            nodes=nodes if has(Capability.NODE_LIMIT) else None,
            memory=self.options.memory_limit if has(Capability.MEMORY_LIMIT) else None,
            threads=self.options.threads if has(Capability.THREADS) else 1,
            seed=self.options.seed if has(Capability.SEED) else 0,
        )

    def solve(
        self,
        session: Session,
        limits: Limits,
        *,
        target: float | None,
        dual_stop: float,
        start: Array,
        callbacks: Callbacks | None = None,
        backend: Backend | None = None,
    ) -> SolveResult:
        """`Session.solve` with those of the stops, and the start, that the solver supports.

        ``backend`` is the session's, if it is not the problem's. Raises `SolverFailedError` for an answer not to use.
        """
        chosen = backend or self.backend
        return session.solve(
            limits,
            target=target if self.options.early_stop and chosen.supports(Capability.TARGET) else None,
            dual_stop=dual_stop if chosen.supports(Capability.DUAL_STOP) else None,
            start=start if self.options.start and chosen.supports(Capability.START) else None,
            callbacks=callbacks,
        )


class Search(ABC):
    """A way of closing pending questions. Questions that it cannot close stay open; verdicts follow from the ledger."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    needs_solver: ClassVar[bool] = True

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The search for ``name[:argument]``."""
        refuse_argument("search", cls.name, argument)
        return cls()

    @abstractmethod
    def run(self, problem: Problem) -> None:
        """Work on the ledger's pending questions; raises `SearchStoppedError` at a limit."""


def check_combination(formulation: Formulation, backend: Backend, options: Options | None = None) -> None:
    """Raise `UnsupportedError`, before anything is built, where a solver lacks what a formulation or option needs."""
    lacking = [c.value for c in Capability if c in formulation.requires and c not in backend.capabilities]
    if lacking:
        raise UnsupportedError(
            f"formulation {formulation.name!r} needs {', '.join(lacking)}, which solver {backend.name!r} does not offer"
        )
    if options is not None:
        second = None if options.check_with is None else backends.get(options.check_with)
        check_options(backend, options.solver_options, defaults=options.solver_defaults)
        if second is not None:
            check_options(second, (), defaults=options.solver_defaults)
    if options is not None and options.removal == "callback" and not backend.supports(Capability.LAZY):
        raise UnsupportedError(
            f"--removal callback needs {Capability.LAZY.value}, which solver {backend.name!r} does not offer; "
            "use --removal resolve"
        )


registry: Registry[Search] = Registry(
    "search",
    Search,  # type: ignore[type-abstract]
    "stablenet.search",
    "stablenet.searches",
)

__all__ = ["Deadline", "Problem", "Search", "SearchStoppedError", "check_combination", "registry"]
