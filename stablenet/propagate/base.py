"""What a method of bounding pre-activations is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from stablenet.bounds import Bounds
from stablenet.domain import Part
from stablenet.network import Network
from stablenet.registry import Registry, refuse_argument


class BoundMethod(ABC):
    """Bounds all pre-activations of a network on one part of the domain."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    rigorous: ClassVar[bool]

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The method for ``name[:argument]``."""
        refuse_argument("bounds", cls.name, argument)
        return cls()

    @abstractmethod
    def run(self, network: Network, part: Part) -> Bounds:
        """Bounds of every layer; all finite, or `InputError` where the network's values overflow."""


registry: Registry[BoundMethod] = Registry(
    "bounds",
    BoundMethod,  # type: ignore[type-abstract]
    "stablenet.propagate",
    "stablenet.bounds",
)
