"""What a search is: it closes the pending questions of a ledger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from stablenet.backends.base import Backend, Callbacks, Capability, Limits, Session, Settings, SolveResult
from stablenet.bounds import Context
from stablenet.core.bounds import Array, Bounds
from stablenet.core.deadline import Deadline, SearchStoppedError
from stablenet.core.errors import SolverError, UnsupportedError
from stablenet.core.ledger import NEGATIVE, POSITIVE, Ledger, Mask
from stablenet.core.network import Network
from stablenet.core.options import Options
from stablenet.core.proofs import PartProof, ProofLog
from stablenet.core.registry import Registry, refuse_argument
from stablenet.domain.regions import Domain
from stablenet.falsify.falsifier import Falsifier
from stablenet.formulations.base import Formulation


def solver_settings(options: Options) -> Settings:
    """Tolerances and log of every solver of a run; witnesses are sought by forward passes, not by sub-MIPs."""
    return Settings(feasibility=options.tolerance, integrality=options.tolerance, submips=False, log=options.log_path)


def bound_context(options: Options, backend: Backend, deadline: Deadline) -> Context:
    """What the bound methods of a run may use."""
    return Context(
        backend=backend,
        settings=solver_settings(options),
        threads=options.threads,
        seed=options.seed,
        memory_limit=options.memory_limit,
        deadline=deadline,
    )


@dataclass(eq=False)
class Problem:
    """All that a search works with. ``bounds`` holds those of each part of the domain."""

    network: Network
    domain: Domain
    ledger: Ledger
    bounds: list[Bounds]
    formulation: Formulation
    backend: Backend
    options: Options
    falsifier: Falsifier
    rng: np.random.Generator
    deadline: Deadline
    proof: ProofLog | None = None
    refuted_before: Mask = field(init=False)
    """Questions refuted on each part before the search began, (parts, 2, n)."""

    def __post_init__(self) -> None:
        self.refuted_before = self.ledger.part_by >= 0

    def proof_of(self, part: int) -> PartProof | None:
        """Where certificates of a part go."""
        return None if self.proof is None else self.proof.parts[part]

    def refuted(self, part: int) -> Mask:
        """Refuted questions of a part, (2, n), that models may rest on; without `tighten` none of the search's own."""
        refuted = np.asarray(self.ledger.part_by[part] >= 0)
        return refuted if self.options.tighten else refuted & self.refuted_before[part]

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
    def settings(self) -> Settings:
        """Solver settings; the margin is at least ten times the tolerances."""
        return solver_settings(self.options)

    @property
    def context(self) -> Context:
        """What bound methods may use."""
        return bound_context(self.options, self.backend, self.deadline)

    def limits(
        self, *, time_limit: float | None = None, nodes: int | None = None, backend: Backend | None = None
    ) -> Limits:
        """Limits of one solve: what is left of the run's, or less.

        Threads, seed, nodes and memory are asked only of a solver that has them: the engine's own memory limit
        stands for the last.
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
        """`Session.solve` with those stops and that start which the solver has.

        ``backend`` is the session's, if it is not the problem's. Raises `SolverError` for a point that is none.
        """
        chosen = backend or self.backend
        result = session.solve(
            limits,
            target=target if chosen.supports(Capability.TARGET) else None,
            dual_stop=dual_stop if chosen.supports(Capability.DUAL_STOP) else None,
            start=start if self.options.start and chosen.supports(Capability.START) else None,
            callbacks=callbacks,
        )
        if result.x is not None and not (result.x.shape == start.shape and np.isfinite(result.x).all()):
            raise SolverError(f"{chosen.title} returned a point that is not {len(start)} finite numbers")
        return result


class Search(ABC):
    """Closes pending questions. Leaves open what it cannot close; never touches a verdict itself."""

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
