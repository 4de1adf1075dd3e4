"""gurobi-machinelearning: bounds of the variables that a predictor constraint has added to a Gurobi model.

As in::

    from gurobi_ml import add_predictor_constr
    from stablenet.integrations.gurobi_ml import tighten

    constraint = add_predictor_constr(model, predictor, inputs, outputs)
    tighten(constraint)

The bounds hold within the bounds that the input variables have at that call; do not widen these afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import NotInstalledError, UnsupportedError
from stablenet.core.network import Network
from stablenet.integrations.dense_chain import Supplied, chain_of, checked_layers, supply
from stablenet.report.report import Report


def network_of(constraint: Any) -> Network:
    """The canonical network of a predictor constraint of gurobi-machinelearning.

    Args:
        constraint: what ``add_predictor_constr`` returned for a network (scikit-learn, PyTorch, Keras, ONNX) of dense
            layers with ReLUs.

    Returns:
        The network, to be given to `stablenet.find_stable`, for instance.

    Raises:
        NotInstalledError: gurobi-machinelearning is not installed.
        InputError: the object is no such constraint.
        UnsupportedError: other activations, or two dense layers without ReLUs between them.
    """
    layers = _layers(constraint)
    return chain_of(layers, layers[0][0].input.shape[1])


def tighten(constraint: Any, bounds: str | Bounds | Report = "crown") -> Supplied:
    """Set bounds on the variables of a predictor constraint: before and after every ReLU, and of the outputs.

    Args:
        constraint: as for `network_of`; its input variables have finite bounds.
        bounds: the name of a method, bounds at hand, or a report on `network_of` this constraint, on a box that
            contains the inputs.

    Returns:
        What was supplied.

    Raises:
        NotInstalledError: gurobi-machinelearning is not installed.
        InputError: an input variable is not bounded; or see `network_of`.
    """
    network = network_of(constraint)
    constraint.gp_model.update()
    lower, upper = (np.asarray(side, np.float64) for side in (constraint.input.LB, constraint.input.UB))
    supplied = supply(network, lower, upper, bounds)
    number = 0
    for layer, relu in _layers(constraint):
        if relu:
            sides = [known.bounds.layers[number] for known in supplied.known]
            before = layer.mixing if hasattr(layer, "coefs") else layer.input
            _narrow(before, np.array([s.lower for s in sides]), np.array([s.upper for s in sides]))
            posts = [known.after(number) for known in supplied.known]
            _narrow(layer.output, np.array([low for low, _ in posts]), np.array([high for _, high in posts]))
            number += 1
    outputs = supplied.known
    _narrow(
        _layers(constraint)[-1][0].output,
        np.array([known.output_lower for known in outputs]),
        np.array([known.output_upper for known in outputs]),
    )
    constraint.gp_model.update()
    return supplied


def _layers(constraint: Any) -> list[tuple[Any, bool]]:
    """The constraint's layers, and whether each has ReLUs."""
    try:
        from gurobi_ml.modeling.neuralnet import BaseNNConstr
        from gurobi_ml.modeling.neuralnet.activations import Identity, ReLU
    except ImportError:
        raise NotInstalledError('gurobi-machinelearning is not installed: pip install "stablenet[gurobiml]"') from None
    layers = checked_layers(constraint, BaseNNConstr, " (of a pipeline, its last step: constraint[-1])")
    for layer in layers:
        if type(layer.activation) not in (ReLU, Identity):
            raise UnsupportedError(f"activation {type(layer.activation).__name__}; there are: Identity, ReLU")
    return [(layer, type(layer.activation) is ReLU) for layer in layers]


def _narrow(variables: Any, lower: Array, upper: Array) -> None:
    """Bounds of a matrix of variables, where tighter than what they have."""
    variables.LB = np.maximum(variables.LB, lower)
    variables.UB = np.minimum(variables.UB, upper)
