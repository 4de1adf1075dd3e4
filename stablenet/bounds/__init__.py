"""Bounds on pre-activations: interval and CROWN propagation, LP and MILP tightening."""

from __future__ import annotations

from stablenet.bounds.base import BoundMethod, Context, registry
from stablenet.core.bounds import Bounds
from stablenet.core.network import Network
from stablenet.domain.regions import Part


def run(method: str | BoundMethod, network: Network, part: Part, context: Context | None = None) -> Bounds:
    """Bounds of every layer's pre-activations on one part, by ``name[:argument]`` or a method."""
    return (registry.get(method) if isinstance(method, str) else method).run(network, part, context)


__all__ = ["BoundMethod", "Context", "registry", "run"]
