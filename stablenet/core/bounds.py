"""Bounds on pre-activations, per entry and side with their method and rigour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from stablenet.core import html
from stablenet.core.arrays import Array

Codes = npt.NDArray[np.int16]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LayerBounds:
    """Bounds of one layer's pre-activations: ``lower <= g <= upper``, all (n,).

    ``lower_by`` and ``upper_by`` index `Bounds.methods`; ``lower_rigorous`` and ``upper_rigorous`` say
    whether the bound, and everything it rests on, holds in spite of rounding.
    """

    lower: Array
    upper: Array
    lower_by: Codes
    upper_by: Codes
    lower_rigorous: npt.NDArray[np.bool_]
    upper_rigorous: npt.NDArray[np.bool_]

    @property
    def rigorous(self) -> bool:
        """Whether every bound is."""
        return bool(self.lower_rigorous.all() and self.upper_rigorous.all())

    @property
    def phase(self) -> npt.NDArray[np.int8]:
        """+1 where ``g >= 0`` is certain, -1 where ``g <= 0`` is (also where both are), else 0."""
        active = self.lower >= 0
        inactive = self.upper <= 0
        return np.where(inactive, -1, np.where(active, 1, 0)).astype(np.int8)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds of all layers on one part of the domain. Immutable; `tighten` returns new ones."""

    methods: tuple[str, ...]
    layers: tuple[LayerBounds, ...]

    def __repr__(self) -> str:
        n = sum(len(layer.lower) for layer in self.layers)
        left = sum(int(np.count_nonzero(layer.phase == 0)) for layer in self.layers)
        proof = "rigorous" if all(layer.rigorous for layer in self.layers) else "not all rigorous"
        methods = ", ".join(self.methods)
        return f"<Bounds by {methods} ({proof}): {n} neurons in {len(self.layers)} layers, {left} undecided>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a row for each layer."""
        rows = []
        for k, layer in enumerate(self.layers):
            counts = [int(np.count_nonzero(layer.phase == phase)) for phase in (1, -1, 0)]
            width = float(np.mean(layer.upper - layer.lower)) if len(layer.lower) else 0.0
            rows.append((k, len(layer.lower), *counts, f"{width:.4g}", "yes" if layer.rigorous else "no"))
        headings = ("layer", "neurons", "active", "inactive", "undecided", "mean width", "rigorous")
        return f"<div>{html.text(repr(self))}</div>{html.table(headings, rows)}"

    @classmethod
    def of(cls, method: str, sides: Sequence[tuple[Array, Array]], *, rigorous: bool) -> Self:
        """From one method's ``(lower, upper)`` per layer."""
        layers = []
        for lower, upper in sides:
            code = np.zeros(len(lower), np.int16)
            proof = np.full(len(lower), rigorous)
            layers.append(LayerBounds(_frozen(lower), _frozen(upper), code, code, proof, proof))
        return cls((method,), tuple(layers))

    def tighten(self, method: str, layer: int, lower: Array, upper: Array, *, rigorous: bool | Flags) -> Self:
        """Intersect one layer with new bounds. NaN tightens nothing; an equal bound keeps its origin, unless
        the new one alone is rigorous.
        """
        methods = self.methods if method in self.methods else (*self.methods, method)
        code = methods.index(method)
        old = self.layers[layer]
        with np.errstate(invalid="ignore"):
            raise_ = (lower > old.lower) | ((lower == old.lower) & rigorous & ~old.lower_rigorous)
            drop = (upper < old.upper) | ((upper == old.upper) & rigorous & ~old.upper_rigorous)
        new = LayerBounds(
            _frozen(np.where(raise_, lower, old.lower)),
            _frozen(np.where(drop, upper, old.upper)),
            np.where(raise_, np.int16(code), old.lower_by),
            np.where(drop, np.int16(code), old.upper_by),
            np.where(raise_, rigorous, old.lower_rigorous),
            np.where(drop, rigorous, old.upper_rigorous),
        )
        return type(self)(methods, (*self.layers[:layer], new, *self.layers[layer + 1 :]))

    def intersect(self, other: Self) -> Self:
        """The tighter of both, entry by entry, with its method and rigour."""
        result = self
        for k, layer in enumerate(other.layers):
            none = np.full(len(layer.lower), np.nan)
            for code, method in enumerate(other.methods):
                lower = np.where(layer.lower_by == code, layer.lower, np.nan)
                upper = np.where(layer.upper_by == code, layer.upper, np.nan)
                result = result.tighten(method, k, lower, none, rigorous=layer.lower_rigorous)
                result = result.tighten(method, k, none, upper, rigorous=layer.upper_rigorous)
        return result

    @property
    def rigorous_methods(self) -> tuple[str, ...]:
        """The methods that a rigorous bound of some neuron is from."""
        found = {
            int(code)
            for layer in self.layers
            for proof, codes in ((layer.lower_rigorous, layer.lower_by), (layer.upper_rigorous, layer.upper_by))
            for code in np.unique(codes[proof])
        }
        return tuple(method for code, method in enumerate(self.methods) if code in found)


def _frozen(values: Array) -> Array:
    values = np.ascontiguousarray(values, dtype=np.float64)
    values.setflags(write=False)
    return values
