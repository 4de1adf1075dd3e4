"""What a search is: it closes the pending questions of a ledger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from stablenet.backends.base import Backend, Capability, Limits, Settings
from stablenet.bounds import Bounds
from stablenet.deadline import Deadline, SearchStoppedError
from stablenet.domain import Domain
from stablenet.errors import UnsupportedError
from stablenet.falsify import Falsifier
from stablenet.formulations.base import Formulation
from stablenet.ledger import Ledger
from stablenet.network import Network
from stablenet.options import Options
from stablenet.registry import Registry, refuse_argument


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

    @property
    def settings(self) -> Settings:
        """Solver settings; the margin is at least ten times the tolerances."""
        margin = self.options.margin
        tolerance = 1e-9 if margin == 0.0 else min(1e-6, max(1e-10, margin / 10.0))
        return Settings(feasibility=tolerance, integrality=tolerance, log=self.options.log_path)

    def limits(self, *, time_limit: float | None = None, nodes: int | None = None) -> Limits:
        """Limits of one solve: what is left of the run's, or less."""
        self.deadline.check()
        left = self.deadline.left
        if time_limit is not None:
            left = time_limit if left is None else min(left, time_limit)
        return Limits(
            time=left,
            nodes=nodes,
            memory=self.options.memory_limit,
            threads=self.options.threads,
            seed=self.options.seed,
        )


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


def check_combination(formulation: Formulation, backend: Backend) -> None:
    """Raise `UnsupportedError`, before anything is built, where a solver lacks what a formulation needs."""
    lacking = [c.value for c in Capability if c in formulation.requires and c not in backend.capabilities]
    if lacking:
        raise UnsupportedError(
            f"formulation {formulation.name!r} needs {', '.join(lacking)}, which solver {backend.name!r} does not offer"
        )


registry: Registry[Search] = Registry(
    "search",
    Search,  # type: ignore[type-abstract]
    "stablenet.search",
    "stablenet.searches",
)

__all__ = ["Deadline", "Problem", "Search", "SearchStoppedError", "check_combination", "registry"]
