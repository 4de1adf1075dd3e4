"""Bounds on pre-activations: interval and CROWN propagation, LP and MILP tightening."""

from __future__ import annotations

from stablenet.bounds import Bounds
from stablenet.domain import Part
from stablenet.network import Network
from stablenet.propagate.base import BoundMethod, registry


def run(method: str | BoundMethod, network: Network, part: Part) -> Bounds:
    """Bounds of every layer's pre-activations on one part, by ``name[:argument]`` or a method."""
    return (registry.get(method) if isinstance(method, str) else method).run(network, part)


__all__ = ["BoundMethod", "registry", "run"]
