"""The bound methods that need no solver: ``interval`` and ``crown``."""

from __future__ import annotations

import numpy as np

from stablenet.bounds.base import BoundMethod, Context
from stablenet.bounds.crown import crown_layers
from stablenet.bounds.interval import interval_layers
from stablenet.bounds.polytope import polytope_layers
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError
from stablenet.core.network import Network
from stablenet.domain.regions import Part


def _box(part: Part) -> tuple[Array, Array]:
    return part.lower[None, :], part.upper[None, :]


class Interval(BoundMethod):
    """Interval propagation; on a box the first layer is exact but for rounding."""

    name = "interval"
    title = "interval propagation"
    paper = "Moore 1966; rigorous by Higham 2002, section 3.1"
    rigorous = True

    def run(self, network: Network, part: Part, context: Context | None = None) -> Bounds:
        """See `BoundMethod`. On a polytope the first layer is bounded by linear programs, the others over that."""
        layers = [(low[0], high[0]) for low, high in interval_layers(network, *_box(part))]
        if part.a is not None and layers:
            layers = polytope_layers(network, part, layers, context or Context())
        if context is not None and context.proof is not None:
            context.proof.bounds(self.name)
        for k, (low, high) in enumerate(layers):
            bad = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
            if bad.size:
                raise InputError(
                    f"layer {k}, neuron {bad[0]}: its values overflow float64 on the domain; "
                    "a smaller domain or smaller weights are needed"
                )
        return Bounds.of(self.name, layers, rigorous=True)


class Crown(BoundMethod):
    """Backward linear bounds, intersected with intervals."""

    name = "crown"
    title = "CROWN / DeepPoly backward bounds"
    paper = "Zhang et al. 2018 (arXiv 1811.00866); Singh et al. 2019"
    rigorous = True

    def run(self, network: Network, part: Part, context: Context | None = None) -> Bounds:
        """See `BoundMethod`. On a polytope its rows come in by multipliers chosen bound by bound."""
        bounds = Interval().run(network, part, context)
        known = [(layer.lower[None, :], layer.upper[None, :]) for layer in bounds.layers]
        rows = None if part.a is None or part.b is None else (part.a, part.b)
        if context is not None and context.proof is not None:
            context.proof.bounds(self.name)
        for k, (low, high) in enumerate(crown_layers(network, *_box(part), known=known, polytope=rows)):
            bounds = bounds.tighten(self.name, k, low[0], high[0], rigorous=True)
        return bounds


class Loose(BoundMethod):
    """Intervals blown up to ``2 max(bound, 1)`` on both sides: an ablation, which decides nothing."""

    name = "loose"
    title = "2 max(interval bound, 1), as in the paper's public code"
    paper = "Serra et al. 2021 (arXiv 2102.07804), public code"
    rigorous = True

    def run(self, network: Network, part: Part, context: Context | None = None) -> Bounds:
        """See `BoundMethod`."""
        sides = [
            (2.0 * np.minimum(layer.lower, -1.0), 2.0 * np.maximum(layer.upper, 1.0))
            for layer in Interval().run(network, part, context).layers
        ]
        return Bounds.of(self.name, sides, rigorous=True)
