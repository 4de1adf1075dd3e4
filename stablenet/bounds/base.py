"""What a method of bounding pre-activations is, and what it may use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from stablenet.backends.base import Backend, Capability, Settings
from stablenet.backends.own_points import FailuresInRow
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline
from stablenet.core.errors import InputError
from stablenet.core.network import Network
from stablenet.core.proofs import PartProof
from stablenet.core.registry import Registry, refuse_argument, set_check
from stablenet.domain.regions import Part


def _ignore(stage: str, done: int, total: int) -> None:
    del stage, done, total


def _forget(bounds: Bounds) -> None:
    del bounds


def _unheard(failure: dict[str, Any]) -> None:
    del failure


def no_points() -> Array:
    """No points at all."""
    return np.zeros((0, 0))


@dataclass(eq=False)
class Context:
    """What a method may use, and where it writes what it cost.

    ``backend`` solves LPs and MILPs (None: HiGHS). ``known`` are valid bounds of the same network and part that a
    tightening method starts from (None: those of ``crown``), and ``n_layers`` how many layers it tightens (None: all).
    ``settings`` are the solver's (None: its own tolerances), ``margin`` the least relaxation of rows in MILPs.
    ``failed(row)`` is told of answers that are not used, see `stablenet.backends.own_points`; ``points()`` are points
    of the part, (b, n_inputs), whose forward passes may disprove them (none: random ones). ``failures`` counts them.
    ``deadline`` ends the work; what was found until then is returned. ``progress(stage, done, total)`` is called as
    questions are done, ``keep(bounds)`` after each layer with the best so far, for whoever may be killed before the
    end. ``costs`` receives one row per layer and stage: ``by``, ``layer``, ``questions`` (upper and lower bounds worked
    on), ``tightened``, ``seconds``, and what the method adds. ``proof`` takes the certificates of rigorous bounds.
    """

    backend: Backend | None = None
    known: Bounds | None = None
    n_layers: int | None = None
    settings: Settings | None = None
    margin: float = 0.0
    threads: int = 1
    seed: int = 0
    memory_limit: float | None = None
    deadline: Deadline = field(default_factory=lambda: Deadline(None))
    progress: Callable[[str, int, int], None] = _ignore
    keep: Callable[[Bounds], None] = _forget
    failed: Callable[[dict[str, Any]], None] = _unheard
    failures: FailuresInRow = field(default_factory=FailuresInRow)
    points: Callable[[], Array] = no_points
    costs: list[dict[str, Any]] = field(default_factory=list)
    proof: PartProof | None = None


class BoundMethod(ABC):
    """Bounds all pre-activations of a network on one part of the domain."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    rigorous: bool
    """Whether its bounds are proof against rounding; where that depends on the argument, set on the instance."""
    requires: frozenset[Capability] = frozenset()
    """What its solver must offer; where that depends on the argument, set on the instance."""

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The method for ``name[:argument]``."""
        refuse_argument("bounds", cls.name, argument)
        return cls()

    def check(self, context: Context) -> None:  # noqa: B027 - most methods need nothing
        """Raise `UnsupportedError` or `NotInstalledError` where the context's solver cannot do what is needed."""

    @abstractmethod
    def run(self, network: Network, part: Part, context: Context | None = None) -> Bounds:
        """Bounds of every layer; all finite, or `InputError` where the network's values overflow.

        Without a context: no limits, one thread.
        """


def whole_number(name: str, argument: str, *, least: int = 1) -> int:
    """The argument of a bound method as a whole number; raises `InputError` for anything else."""
    if not argument.isascii() or not argument.isdigit() or int(argument) < least or len(argument) > 9:
        raise InputError(f"bounds {name!r} takes a whole number from {least} up, got {argument!r}")
    return int(argument)


registry: Registry[BoundMethod] = Registry(
    "bounds",
    BoundMethod,  # type: ignore[type-abstract]
    "stablenet.bounds",
    "stablenet.bounds",
    set_check("requires", "requirements", Capability),
)
