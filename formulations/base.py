"""The interface of a formulation: the encoding of one ReLU layer in Pyomo, independent of solvers.

Importing this does not import Pyomo: `AffineRows` and `IndicatorRows`, which need it, are looked up when asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from stablenet.backends.base import Capability

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.core.registry import Registry, refuse_argument, set_check
from stablenet.milp.matrices import Matrix, Variables, block_matrix

if TYPE_CHECKING:
    from stablenet.milp.affine_rows import AffineRows, IndicatorRows


@dataclass(frozen=True, eq=False)
class ReluLayer:
    """The neurons of one layer that need encoding: n of them over m inputs.

    The model builder has tied ``pre[i]`` to ``(matrix @ inputs + offset)[i]`` (within the model's margin); a
    formulation ties ``post[i]`` to ``max(pre[i], 0)``. ``matrix`` (n, m) stacks all sources. ``lower`` and ``upper``
    are the bounds of the variables ``pre``: valid, finite, with the margin, and ``lower <= 0 <= upper``;
    ``input_lower`` and ``input_upper`` (m,) are those of the inputs. ``post`` has bounds ``[0, upper]``. ``neurons``
    are the neurons' numbers in their layer, for indexing components. Neurons with a proven phase never get here. All
    this is in the model's units: ``pre[i]`` is ``scale[i]`` times the network's pre-activation. A row that states
    pre-activations in terms of the inputs anew must be a range of ``slack`` (n,) to either side, or of ``margin``, the
    largest of them; rows between ``pre``, ``post`` and own variables need none.
    """

    neurons: npt.NDArray[np.intp]
    inputs: Variables
    matrix: Matrix
    offset: Array
    pre: Variables
    post: Variables
    lower: Array
    upper: Array
    input_lower: Array
    input_upper: Array
    scale: Array
    margin: float
    slack: Array

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.offset)


@dataclass(frozen=True)
class AffineHandle:
    """A question's witness value is at most ``coefficient * variable + constant``, which lies in [0, 1]."""

    variable: Any
    coefficient: float
    constant: float


@dataclass(frozen=True)
class SosHandle:
    """A question's witness value may be nonzero only if ``partner`` is zero (an SOS1 pair)."""

    partner: Any


Handle = AffineHandle | SosHandle


@dataclass(frozen=True, eq=False)
class Encoding:
    """What `Formulation.encode` returns.

    ``variables`` are the formulation's own, by names of its choice; `Formulation.assign` gives their values
    under the same names. ``positive[i]`` and ``negative[i]`` are the handles of *can pre[i] be positive /
    negative*: in every point of the encoding with a true witness the value 1 must be possible. Both
    empty where the formulation can only refute.
    """

    variables: Mapping[str, Variables] = field(default_factory=dict)
    positive: Sequence[Handle] = ()
    negative: Sequence[Handle] = ()


@dataclass(frozen=True, eq=False)
class Cuts:
    """Rows ``lower <= matrix @ variables <= upper`` that hold for every solution: (c, k), (c,), (c,)."""

    matrix: Matrix
    variables: Variables
    lower: Array
    upper: Array


class Formulation(ABC):
    """The encoding of a ReLU layer.

    ``paper`` and ``equations`` name the source; ``requires`` lists what the solver must offer beyond
    linear rows and binaries. ``exact`` is False for a relaxation, which has no handles and only refutes. ``cuts`` says
    when `separate` is to be called: in rounds on the root relaxation, or at the nodes of the solver's tree too.
    ``variants`` are specifications to show where the name takes an argument.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    equations: ClassVar[str] = ""
    variants: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = True
    requires: frozenset[Capability] = frozenset()
    cuts: Literal["none", "root", "tree"] = "none"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        lacking = [name for name in ("title", "paper") if not getattr(cls, name, "")]
        if "name" in cls.__dict__ and lacking:
            raise InputError(
                f"formulation {cls.name!r} ({cls.__module__}.{cls.__qualname__}) has no {' and no '.join(lacking)}: "
                "a line that says what it is, and its source"
            )

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The formulation for ``name[:argument]``."""
        refuse_argument("formulation", cls.name, argument)
        return cls()

    @property
    def spec(self) -> str:
        """``name[:argument]``: what the registry makes this formulation from."""
        return self.name

    @abstractmethod
    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """Add variables and constraints of the layer to the Pyomo block; see `ReluLayer` and `Encoding`."""

    @abstractmethod
    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """Values of the own variables in the solution with these inputs (b, m) and pre-activations (b, n).

        By the names of `Encoding.variables`, each (b, number of variables). Post-activations are ``max(pre, 0)``.
        """

    def separate(self, layer: ReluLayer, encoding: Encoding, value: Callable[[Variables], Array]) -> Cuts | None:
        """Valid rows that an LP point violates, or None; only for formulations with cuts.

        ``value(variables)`` gives the point's values of any variables of the model.
        """
        del layer, encoding, value
        return None


def add_variables(
    block: Any, name: str, index: npt.NDArray[np.intp], lower: Array | float, upper: Array | float
) -> list[Any]:
    """Add continuous variables ``block.name[index]`` with the bounds given (numbers or arrays)."""
    import pyomo.environ as pyo

    lows, highs = (np.broadcast_to(np.asarray(side, np.float64), index.shape).tolist() for side in (lower, upper))
    sides = dict(zip(index.tolist(), zip(lows, highs, strict=True), strict=True))
    block.add_component(name, pyo.Var(list(sides), bounds=sides))
    return list(block.component(name).values())


def add_binaries(block: Any, name: str, index: npt.NDArray[np.intp]) -> list[Any]:
    """Add binary variables ``block.name[index]``."""
    import pyomo.environ as pyo

    block.add_component(name, pyo.Var(index.tolist(), domain=pyo.Binary))
    return list(block.component(name).values())


def phase_handles(binaries: Variables) -> tuple[list[Handle], list[Handle]]:
    """Handles for binaries that are 1 where the neuron is active: positive ``z``, negative ``1 - z``."""
    return [AffineHandle(z, 1.0, 0.0) for z in binaries], [AffineHandle(z, -1.0, 1.0) for z in binaries]


registry: Registry[Formulation] = Registry(
    "formulation",
    Formulation,  # type: ignore[type-abstract]
    "stablenet.formulations",
    "stablenet.formulations",
    set_check("requires", "requirements", Capability),
)


def __getattr__(name: str) -> Any:
    if name in {"AffineRows", "IndicatorRows"}:
        from stablenet.milp import affine_rows

        return getattr(affine_rows, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AffineHandle",
    "AffineRows",
    "Capability",
    "Cuts",
    "Encoding",
    "Formulation",
    "Handle",
    "IndicatorRows",
    "ReluLayer",
    "SosHandle",
    "add_binaries",
    "add_variables",
    "block_matrix",
    "phase_handles",
    "registry",
]
