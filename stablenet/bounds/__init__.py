"""Bounds on pre-activations: interval and CROWN propagation, LP and MILP tightening."""

from __future__ import annotations

from stablenet.bounds import Bounds
from stablenet.domain import Part
from stablenet.network import Network
from stablenet.propagate.base import BoundMethod, Context, registry


def run(method: str | BoundMethod, network: Network, part: Part, context: Context | None = None) -> Bounds:
    """Bounds of every layer's pre-activations on one part, by ``name[:argument]`` or a method."""
    return (registry.get(method) if isinstance(method, str) else method).run(network, part, context)


__all__ = ["BoundMethod", "Context", "registry", "run"]
