"""OMLT: bounds of a network definition's ReLUs for its full-space formulation.

OMLT takes the constraints of activations as functions; `activation_constraints` makes such functions, which first
bound the pre-activations and fix the binaries of stable neurons, and then add OMLT's own constraints::

    from omlt.neuralnet import FullSpaceNNFormulation
    from stablenet.integrations.omlt import activation_constraints

    formulation = FullSpaceNNFormulation(definition, activation_constraints=activation_constraints(definition))

The bounds hold for the definition's scaled inputs within ``scaled_input_bounds``, which OMLT sets on the variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError, NotInstalledError, UnsupportedError
from stablenet.core.network import Network
from stablenet.integrations.dense_chain import Dense, Known, chain, supply
from stablenet.report.report import Report

Constraints = Callable[[Any, Any, Any, Any], None]


def network_of(definition: Any) -> Network:
    """The canonical network of an OMLT ``NetworkDefinition``: what it computes from its scaled inputs.

    Args:
        definition: a definition of dense layers in a row, with activations relu and, at the end, linear.

    Returns:
        The network, to be given to `stablenet.find_stable`, for instance.

    Raises:
        NotInstalledError: OMLT is not installed.
        UnsupportedError: layers of another kind, other activations, or two dense layers without ReLUs between them.
    """
    inputs, dense = _layers(definition)
    layers = []
    for layer in dense:
        if layer.activation not in ("relu", "linear"):
            raise UnsupportedError(f"activation {layer.activation!r} of {layer}; there are: relu, linear")
        layers.append(Dense(np.asarray(layer.weights), np.asarray(layer.biases), layer.activation == "relu"))
    return chain(layers, int(np.prod(inputs.output_size)))


def activation_constraints(definition: Any, bounds: str | Bounds | Report = "crown") -> dict[str, Constraints]:
    """Constraints of OMLT's activations with bounds of the pre-activations.

    Args:
        definition: as for `network_of`, with bounds on every scaled input.
        bounds: the name of a method, bounds at hand, or a report on `network_of` this definition, on a box that
            contains the scaled inputs.

    Returns:
        By name of the activation, what ``FullSpaceNNFormulation`` takes as ``activation_constraints``.

    Raises:
        NotInstalledError: OMLT is not installed.
        InputError: an input is not bounded; or see `network_of`.
    """
    network = network_of(definition)
    inputs, dense = _layers(definition)
    lower, upper = _input_bounds(definition, inputs)
    known = supply(network, lower[None, :], upper[None, :], bounds).known[0]
    number = {id(layer): k for k, layer in enumerate(dense)}
    return {"relu": _relu(known, number), "linear": _linear(known, number)}


def _layers(definition: Any) -> tuple[Any, list[Any]]:
    """The input layer and the dense ones in order."""
    try:
        from omlt.neuralnet.layer import DenseLayer, InputLayer
    except ImportError:
        raise NotInstalledError('OMLT is not installed: pip install "stablenet[omlt]"') from None
    layers = list(definition.layers)
    if not layers or type(layers[0]) is not InputLayer:
        raise UnsupportedError("the definition does not start with one input layer")
    for before, layer in pairwise(layers):
        if type(layer) is not DenseLayer:
            raise UnsupportedError(f"layer {layer}; dense ones are expected (for others take `stablenet.add_network`)")
        if list(definition.predecessors(layer)) != [before]:
            raise UnsupportedError(f"layer {layer} does not follow the one before it alone; a chain is expected")
        if len(layer.input_size) != 1 or len(layer.output_size) != 1:
            raise UnsupportedError(f"layer {layer} works on the last of several axes; vectors are expected")
    return layers[0], layers[1:]


def _input_bounds(definition: Any, inputs: Any) -> tuple[Array, Array]:
    given: Mapping[Any, tuple[float, float]] = definition.scaled_input_bounds or {}
    sides = []
    for index in inputs.input_indexes:
        key = index if index in given else index[0] if len(index) == 1 else index
        if key not in given or any(side is None for side in given[key]):
            raise InputError(f"input {key} of the definition has no scaled_input_bounds")
        sides.append([float(side) for side in given[key]])
    lower, upper = np.array(sides).T
    return lower, upper


def _narrow(variables: Any, indexes: Any, lower: Array, upper: Array) -> None:
    """Bounds of variables, where tighter than those that OMLT has found."""
    for index, low, high in zip(indexes, lower.tolist(), upper.tolist(), strict=True):
        old_low, old_high = variables[index].bounds
        variables[index].setlb(low if old_low is None else max(low, old_low))
        variables[index].setub(high if old_high is None else min(high, old_high))


def _relu(known: Known, number: Mapping[int, int]) -> Constraints:
    from omlt.neuralnet.activations import bigm_relu_activation_constraint

    big_m: Constraints = bigm_relu_activation_constraint

    def relu(net_block: Any, net: Any, layer_block: Any, layer: Any) -> None:
        found = known.bounds.layers[number[id(layer)]]
        indexes = layer.output_indexes
        _narrow(layer_block.zhat, indexes, found.lower, found.upper)
        big_m(net_block, net, layer_block, layer)
        for index, phase in zip(indexes, found.phase.tolist(), strict=True):
            if phase:
                layer_block.q_relu[index].fix(1 if phase > 0 else 0)

    return relu


def _linear(known: Known, number: Mapping[int, int]) -> Constraints:
    from omlt.neuralnet.activations import linear_activation_constraint

    equal: Constraints = linear_activation_constraint

    def linear(net_block: Any, net: Any, layer_block: Any, layer: Any) -> None:
        if id(layer) in number:
            _narrow(layer_block.zhat, layer.output_indexes, known.output_lower, known.output_upper)
        equal(net_block, net, layer_block, layer)

    return linear
