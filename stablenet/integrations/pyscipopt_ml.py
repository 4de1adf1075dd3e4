"""PySCIPOpt-ML: bounds of the variables and big-M rows that a predictor constraint has added to a SCIP model.

As in::

    from pyscipopt_ml.add_predictor import add_predictor_constr
    from stablenet.integrations.pyscipopt_ml import tighten

    constraint = add_predictor_constr(model, predictor, inputs, outputs)
    tighten(constraint)

The bounds hold within the bounds that the input variables have at that call; do not widen these afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds, LayerBounds
from stablenet.core.errors import InputError, NotInstalledError, UnsupportedError
from stablenet.core.network import Network
from stablenet.integrations.dense_chain import Supplied, chain_of, checked_layers, supply
from stablenet.report.report import Report

_LINEAR = ("identity", "linear")


def network_of(constraint: Any) -> Network:
    """The canonical network of a predictor constraint of PySCIPOpt-ML.

    Args:
        constraint: what ``add_predictor_constr`` returned for a network (scikit-learn, PyTorch, Keras, ONNX) of dense
            layers with ReLUs. Of a classifier, the outputs are the numbers whose largest decides.

    Returns:
        The network, to be given to `stablenet.find_stable`, for instance.

    Raises:
        NotInstalledError: PySCIPOpt-ML is not installed.
        InputError: the object is no such constraint.
        UnsupportedError: other activations, or two dense layers without ReLUs between them.
    """
    layers = _layers(constraint)
    return chain_of(((layer, layer.activation == "relu") for layer in layers), layers[0].input.shape[1])


def tighten(constraint: Any, bounds: str | Bounds | Report = "crown") -> Supplied:
    """Set bounds on the variables of a predictor constraint, and its big-M coefficients where it has any.

    Args:
        constraint: as for `network_of`, of a model that is not being solved; its input variables have finite bounds.
        bounds: the name of a method, bounds at hand, or a report on `network_of` this constraint, on a box that
            contains the inputs.

    Returns:
        What was supplied.

    Raises:
        NotInstalledError: PySCIPOpt-ML is not installed.
        InputError: an input variable is not bounded, or the model is past its making; or see `network_of`.
    """
    network = network_of(constraint)
    model, layers = constraint.scip_model, _layers(constraint)
    if model.getStageName() != "PROBLEM":
        raise InputError(f"the SCIP model is in stage {model.getStageName()}; call freeTransform() first")
    sides = [[(v.getLbOriginal(), v.getUbOriginal()) for v in row] for row in layers[0].input]
    lower, upper = np.moveaxis(np.array(sides, np.float64), 2, 0)
    supplied = supply(network, lower, upper, bounds)
    number = 0
    for layer in layers:
        if layer.activation == "relu":
            for sample, known in enumerate(supplied.known):
                _tighten_relu(model, layer, sample, known.bounds.layers[number])
            number += 1
    for sample, known in enumerate(supplied.known):
        for variable, low, high in zip(
            layers[-1].output[sample], known.output_lower.tolist(), known.output_upper.tolist(), strict=True
        ):
            _narrow(model, variable, low, high)
    return supplied


def _layers(constraint: Any) -> list[Any]:
    try:
        from pyscipopt_ml.modelling.neuralnet import BaseNNConstr
    except ImportError:
        raise NotInstalledError('PySCIPOpt-ML is not installed: pip install "stablenet[scipml]"') from None
    layers = checked_layers(constraint, BaseNNConstr)
    for layer in layers:
        if layer.activation not in ("relu", *_LINEAR):
            raise UnsupportedError(f"activation {layer.activation!r}; there are: relu, identity")
    return layers


def _narrow(model: Any, variable: Any, lower: float, upper: float) -> None:
    """Bounds of a variable, where tighter than what it has."""
    model.chgVarLb(variable, max(lower, variable.getLbOriginal()))
    model.chgVarUb(variable, min(upper, variable.getUbOriginal()))


def _tighten_relu(model: Any, layer: Any, sample: int, found: LayerBounds) -> None:
    """Bounds of the ReLUs of one sample: ``y = max(g, 0)`` with ``y - slack = g``, or with a binary and big-M rows."""
    extra = layer._created_vars[0][sample]  # noqa: SLF001 - PySCIPOpt-ML shows them nowhere else
    offset = _offsets(layer)
    for i, (low, high) in enumerate(zip(found.lower.tolist(), found.upper.tolist(), strict=True)):
        _narrow(model, layer.output[sample][i], max(low, 0.0), max(high, 0.0))
        if layer.formulation == "sos":
            _narrow(model, extra[i], max(-high, 0.0), max(-low, 0.0))
            continue
        _, inactive, active = (rows[sample][i] for rows in layer._created_cons[:3])  # noqa: SLF001
        # y <= g - low * (1 - z), and y <= high * z
        model.chgCoefLinear(inactive, extra[i], -low)
        model.chgRhs(inactive, float(offset[i]) - low)
        model.chgCoefLinear(active, extra[i], -high)
        if found.phase[i]:
            _narrow(model, extra[i], *((1.0, 1.0) if found.phase[i] > 0 else (0.0, 0.0)))


def _offsets(layer: Any) -> Array:
    size = layer.output.shape[-1]
    given = layer.intercept if hasattr(layer, "coefs") else 0.0
    return np.broadcast_to(np.asarray(given, np.float64), (size,))
