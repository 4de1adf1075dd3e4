"""Dense layers with ReLUs between them, as other packages hold them, and bounds for their variables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.api import bounds_and_outputs
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError, ReportError, UnsupportedError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, Part
from stablenet.report.evidence import Evidence
from stablenet.report.report import Report, domain_from_json

REPORT = "report"
"""What bounds that are read from a report are named after."""


@dataclass(frozen=True, eq=False)
class Dense:
    """One dense layer, ``x @ weights + offset``, (n_in, n_out) and (n_out,), and whether ReLUs follow."""

    weights: npt.NDArray[np.generic]
    offset: npt.NDArray[np.generic]
    relu: bool


def chain(layers: Sequence[Dense], n_inputs: int) -> Network:
    """The canonical network of dense layers.

    A last layer with ReLUs is followed by the identity. Raises `UnsupportedError` for two layers without ReLUs between
    them: their product would be rounded, and bounds of it would say nothing certain about the layers.
    """
    canonical: list[Layer] = []
    output: AffineMap | None = None
    for number, layer in enumerate(layers):
        if output is not None:
            raise UnsupportedError(
                f"dense layers {number - 1} and {number} have no ReLUs between them: make one layer of them"
            )
        weights = np.asarray(layer.weights)
        offset = np.broadcast_to(np.asarray(layer.offset), (weights.shape[1],))
        affine = AffineMap(np.asarray(offset, np.float64), (Term(len(canonical), weights.T),))
        if layer.relu:
            canonical.append(Layer(affine, f"relu{len(canonical)}", (affine.size,)))
        else:
            output = affine
    if output is None:
        size = canonical[-1].size if canonical else n_inputs
        output = AffineMap(np.zeros(size), (Term(len(canonical), np.eye(size)),))
    return Network(n_inputs, tuple(canonical), output)


def chain_of(layers: Iterable[tuple[Any, bool]], n_inputs: int) -> Network:
    """The canonical network of layers as gurobi-machinelearning and PySCIPOpt-ML hold them.

    With each layer comes whether it has ReLUs. A layer has ``coefs`` and an ``intercept``, or is nothing but the ReLUs
    of the layer before; raises `UnsupportedError` where it is neither, and as `chain` does.
    """
    dense: list[Dense] = []
    for layer, relu in layers:
        if hasattr(layer, "coefs"):
            dense.append(Dense(np.asarray(layer.coefs), np.asarray(layer.intercept), relu))
        elif not dense or dense[-1].relu:
            raise UnsupportedError("ReLUs that do not follow a dense layer")
        else:
            dense[-1] = replace(dense[-1], relu=True)
    return chain(dense, n_inputs)


def checked_layers(constraint: Any, kind: Any, hint: str = "") -> list[Any]:
    """The layers of a predictor constraint; raises `InputError` where it is no object of that kind."""
    if not isinstance(constraint, kind):
        raise InputError(
            f"an object of type {type(constraint).__name__}; the constraint of a neural network is expected, as "
            f"add_predictor_constr returns it{hint}"
        )
    return list(constraint)


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a network on a box: bounds of all pre-activations, and of the outputs, each (n_outputs,)."""

    bounds: Bounds
    output_lower: Array
    output_upper: Array

    def after(self, layer: int) -> tuple[Array, Array]:
        """Bounds of the post-activations of a layer."""
        found = self.bounds.layers[layer]
        return np.maximum(found.lower, 0.0), np.maximum(found.upper, 0.0)


@dataclass(frozen=True, eq=False)
class Supplied:
    """What was supplied to another package's model.

    ``network`` is the canonical network that its layers compute, ``known`` what is known of it for each sample, on the
    box of that sample's inputs.
    """

    network: Network
    boxes: tuple[Part, ...]
    known: tuple[Known, ...]

    def __repr__(self) -> str:
        return f"<Supplied: bounds of {self.n_neurons} ReLUs, {self.n_stable} of them stable>"

    @property
    def n_neurons(self) -> int:
        """ReLUs in the model, over all samples."""
        return len(self.known) * self.network.n_neurons

    @property
    def n_stable(self) -> int:
        """Those whose sign is decided."""
        layers = [layer for known in self.known for layer in known.bounds.layers]
        return sum(int(np.count_nonzero(layer.phase)) for layer in layers)

    def check_inputs(self, lower: npt.ArrayLike, upper: npt.ArrayLike) -> None:
        """Raise `InputError` where inputs, (samples, n_inputs), may now leave the boxes that the bounds hold on."""
        for sample, (box, low, high) in enumerate(zip(self.boxes, np.asarray(lower), np.asarray(upper), strict=True)):
            wider = np.flatnonzero(~((low >= box.lower) & (high <= box.upper)))
            if wider.size:
                i = wider[0]
                raise InputError(
                    f"input {i} of sample {sample} now has bounds [{low[i]:g}, {high[i]:g}], and the model was given "
                    f"bounds that hold on [{box.lower[i]:g}, {box.upper[i]:g}]: build it anew, or narrow the input"
                )


def supply(network: Network, lower: Array, upper: Array, bounds: str | Bounds | Report) -> Supplied:
    """Bounds of a network for samples whose inputs have the bounds ``lower`` and ``upper``, (samples, n_inputs).

    Args:
        network: what the model's layers compute.
        lower: lower bounds of the inputs; finite.
        upper: upper bounds of them.
        bounds: the name of a method, bounds at hand that hold on the box, or a report on this network on a box that
            contains it, whose refutations are believed.

    Returns:
        What is known.

    Raises:
        InputError: an input is not bounded, or bounds do not fit the network.
        ReportError: the report is about another network, or about another domain.
    """
    boxes = tuple(_box(low, high, sample) for sample, (low, high) in enumerate(zip(lower, upper, strict=True)))
    known = []
    for box in boxes:
        given = from_report(bounds, network, box) if isinstance(bounds, Report) else bounds
        found, outputs = bounds_and_outputs(given, network, box)
        known.append(Known(found, *outputs))
    return Supplied(network, boxes, tuple(known))


def _box(lower: Array, upper: Array, sample: int) -> Part:
    free = np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper)) | (np.maximum(-lower, upper) >= 1e20))
    if free.size:
        i = free[0]
        raise InputError(
            f"input {i} of sample {sample} has bounds [{lower[i]:g}, {upper[i]:g}]; finite ones are needed, set before "
            "this call"
        )
    return Box(lower, upper)


def from_report(report: Report, network: Network, box: Part) -> Bounds:
    """The bounds that follow from a report on the network, on a box that its domain contains.

    Raises `ReportError` for a report on another network, or on a domain that is no box or does not contain this one.
    """
    domain = domain_from_json(report.data["domain"])
    evidence = Evidence.of(report, network, domain)
    whole = domain.parts[0]
    if len(domain.parts) > 1 or whole.a is not None:
        raise ReportError("the report's domain is no box: its bounds cannot be given to a model of a box")
    if not ((whole.lower <= box.lower) & (box.upper <= whole.upper)).all():
        raise ReportError("the inputs' bounds are not within the report's domain")
    pairs = zip(evidence.trusted(), evidence.upper, strict=True)
    sides = [(lower, np.minimum(upper, told)) for (lower, upper), told in pairs]
    for neuron in report.data["neurons"]:
        if neuron["lower"] is not None:
            lower = sides[neuron["layer"]][0]
            lower[neuron["neuron"]] = max(lower[neuron["neuron"]], float(neuron["lower"]))
    base = bounds_and_outputs("interval", network, box)[0]
    return base.intersect(Bounds.of(REPORT, sides, rigorous=False))
