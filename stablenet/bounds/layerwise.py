"""The walk that every tightening method makes: layer by layer, better bounds served to the layers after.

It starts from ``crown``, or from bounds at hand. At each layer the bounds are first refreshed by intervals and CROWN
over what earlier layers gained, which costs little; then the method works on the neurons still undecided.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from stablenet.bounds.base import BoundMethod, Context
from stablenet.bounds.crown import Backward, crown_rows
from stablenet.bounds.interval import affine_bounds, post_bounds
from stablenet.bounds.methods import Crown
from stablenet.core.arrays import Array, Index
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError
from stablenet.core.network import Network
from stablenet.domain.regions import Part


class LayerwiseState:
    """State of the walk. ``bounds`` are the best so far, ``backward`` has the layers done.

    ``rigorous`` is False once a bound that is not rigorous is used or has tightened anything: all that is derived later
    rests on it.
    """

    def __init__(self, network: Network, part: Part, bounds: Bounds, context: Context) -> None:
        self.network = network
        self.part = part
        self.bounds = bounds
        self.context = context
        self.rigorous = all(layer.rigorous for layer in bounds.layers)
        self.backward = Backward.on(network, part)
        self._lows = [part.lower[None, :]]
        self._highs = [part.upper[None, :]]

    @property
    def layer(self) -> int:
        """The layer that is worked on: the first that is not done."""
        return len(self._lows) - 1

    def undecided(self) -> Index:
        """Neurons of the layer whose bounds leave the phase open."""
        return np.flatnonzero(self.bounds.layers[self.layer].phase == 0)

    def tighten(self, method: str, lower: Array, upper: Array, *, rigorous: bool) -> int:
        """Intersect the layer's bounds, (n,) each; returns how many bounds got better."""
        old = self.bounds.layers[self.layer]
        proof = rigorous and self.rigorous
        self.bounds = self.bounds.tighten(method, self.layer, lower, upper, rigorous=proof)
        new = self.bounds.layers[self.layer]
        better = int(np.count_nonzero(new.lower > old.lower) + np.count_nonzero(new.upper < old.upper))
        if better and not rigorous:
            self.rigorous = False
        return better

    def refresh(self, method: str) -> None:
        """Intervals and CROWN for this layer, over the bounds of the layers before."""
        k = self.layer
        affine = self.network.layers[k].affine
        low, high = affine_bounds(affine, self._lows, self._highs)
        self.tighten(method, low[0], high[0], rigorous=True)
        rows = self.undecided()
        if self.context.proof is not None:
            self.context.proof.layer(self.backward.pushed, method)
        if k and len(rows):
            self.tighten(method, *crown_rows(self.backward, affine, rows), rigorous=True)

    def advance(self) -> None:
        """The layer is done: its bounds serve those after."""
        known = self.bounds.layers[self.layer]
        lower, upper = known.lower[None, :], known.upper[None, :]
        self.backward.push(lower, upper)
        low, high = post_bounds(lower, upper)
        self._lows.append(low)
        self._highs.append(high)
        self.context.keep(self.bounds)

    @contextmanager
    def cost(self, by: str, questions: int) -> Iterator[dict[str, Any]]:
        """Times a stage on this layer; the row goes to the context's costs."""
        row: dict[str, Any] = {"by": by, "layer": self.layer, "questions": questions, "tightened": 0}
        began = time.monotonic()
        try:
            yield row
        finally:
            row["seconds"] = time.monotonic() - began
            self.context.costs.append(row)


class Tightening(BoundMethod):
    """A method that tightens layer by layer what CROWN leaves undecided."""

    def run(self, network: Network, part: Part, context: Context | None = None) -> Bounds:
        """See `BoundMethod`. At the deadline the bounds found so far are returned."""
        context = context or Context()
        self.check(context)
        state = LayerwiseState(network, part, context.known or Crown().run(network, part, context), context)
        for k in range(len(network.layers) if context.n_layers is None else context.n_layers):
            if context.deadline.over:
                break
            if k:
                state.refresh(self.name)
            if k and len(state.undecided()):
                try:
                    self.work(state)
                except InputError as error:
                    if type(error) is not InputError:
                        raise
                    # Numbers that no solver takes: the layer keeps the bounds that it has.
            state.advance()
        return state.bounds

    @abstractmethod
    def work(self, state: LayerwiseState) -> None:
        """Tighten the undecided neurons of the sweep's layer, until the deadline."""
