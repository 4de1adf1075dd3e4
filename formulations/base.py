"""What a formulation is: the encoding of one ReLU layer in Pyomo, knowing no solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from stablenet.backends.base import Capability

from stablenet.milp import Rows
from stablenet.registry import Registry, refuse_argument

Array = npt.NDArray[np.float64]
Variables = Sequence[Any]  # of pyomo VarData; Pyomo ships no types


@dataclass(frozen=True, eq=False)
class ReluLayer:
    """One layer as a formulation sees it, n neurons over m inputs.

    ``pre[i]`` is tied by the model builder to ``(matrix @ inputs + offset)[i]``; ``matrix`` (n, m) stacks all
    sources. ``lower <= pre <= upper`` are valid, finite and already carry the model's margin. ``phase[i]``
    is +1 where the neuron is proven active on the part, -1 where proven inactive, 0 where it needs encoding;
    go by it and never by the signs of the bounds. ``input_lower`` and ``input_upper`` bound the inputs.
    """

    inputs: Variables
    matrix: Array | sparse.csr_array
    offset: Array
    pre: Variables
    lower: Array
    upper: Array
    phase: npt.NDArray[np.int8]
    input_lower: Array
    input_upper: Array

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.offset)

    @property
    def undecided(self) -> npt.NDArray[np.intp]:
        """The neurons that need encoding."""
        return np.flatnonzero(self.phase == 0)


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

    ``post`` are the post-activations, one per neuron. ``positive[i]`` and ``negative[i]`` are the handles
    of *can g be positive / negative* for undecided neurons: in every point of the encoding with a true
    witness the value 1 must be possible. Empty where the formulation can only refute.
    """

    post: Variables
    positive: Mapping[int, Handle] = field(default_factory=dict)
    negative: Mapping[int, Handle] = field(default_factory=dict)


class Formulation(ABC):
    """The encoding of a ReLU layer.

    ``paper`` and ``equations`` name the source; ``requires`` lists what the solver must offer beyond
    linear rows and binaries.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    equations: ClassVar[str] = ""
    requires: ClassVar[frozenset[Capability]] = frozenset()
    exact: ClassVar[bool] = True

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The formulation for ``name[:argument]``."""
        refuse_argument("formulation", cls.name, argument)
        return cls()

    @abstractmethod
    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """Add variables and constraints of the layer to the Pyomo block; see `ReluLayer` and `Encoding`."""

    def separate(self, block: Any, layer: ReluLayer, point: Mapping[int, float]) -> Rows | None:
        """Valid rows violated by an LP point, or None; only for formulations with cuts."""
        del block, layer, point
        return None


registry: Registry[Formulation] = Registry(
    "formulation",
    Formulation,  # type: ignore[type-abstract]
    "stablenet.formulations",
    "stablenet.formulations",
)
