"""The contents of a search model: its questions, the neurons that they depend on, and the witness values to
maximise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.arrays import Index
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError, UnsupportedError
from stablenet.core.network import Network
from stablenet.formulations.base import AffineHandle, Formulation, Handle, SosHandle
from stablenet.pyomo_model.network_model import Assembled, LayerPlan, Phase, power_of_two, usable

ENLARGED = 2.0**10
"""Without deciding by bounds, a range is enlarged to 1, but to no more than this multiple of the neuron's magnitude."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Pending questions, all (q,): can g of ``neuron`` of ``layer`` have the sign ``side`` (+1, -1)."""

    layer: Index
    neuron: Index
    side: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.layer)


def questions_of(network: Network, positive: Sequence[npt.ArrayLike], negative: Sequence[npt.ArrayLike]) -> Questions:
    """The questions of the given neurons per layer, positive ones first. Raises `InputError` if there are none."""
    layers, neurons, sides = [], [], []
    for side, asked in ((1, positive), (-1, negative)):
        if len(asked) > len(network.layers):
            raise InputError(f"questions for {len(asked)} layers, the network has {len(network.layers)}")
        for k, chosen in enumerate(asked):
            index = np.unique(np.asarray(chosen, dtype=np.intp))
            if index.size and not (index[0] >= 0 and index[-1] < network.layers[k].size):
                raise InputError(f"layer {k} has neurons 0 to {network.layers[k].size - 1}, asked is {index[-1]}")
            layers.append(np.full(len(index), k, dtype=np.intp))
            neurons.append(index)
            sides.append(np.full(len(index), side, dtype=np.int8))
    if not any(len(index) for index in neurons):
        raise InputError("no question is pending: there is nothing to model")
    return Questions(np.concatenate(layers), np.concatenate(neurons), np.concatenate(sides))


def layer_plans(
    network: Network,
    bounds: Bounds,
    questions: Questions,
    *,
    decide: bool,
    phases: Sequence[Phase] | None,
    witness: bool,
) -> list[LayerPlan]:
    """The layers up to the last asked; backwards from the questions, the neurons that they depend on.

    Without witness values, a neuron that is only asked needs its pre-activation and no ReLU.
    """
    last = int(questions.layer.max())
    needed = [np.zeros(layer.size, bool) for layer in network.layers[: last + 1]]
    plans: list[LayerPlan] = []
    for k in range(last, -1, -1):
        known = bounds.layers[k]
        lower, upper = usable(known)
        phase = known.phase
        if not decide:
            # A neuron far smaller than 1 would vanish below the solver's tolerances in a range of 1.
            least = np.minimum(1.0, ENLARGED / power_of_two(np.maximum(np.abs(lower), np.abs(upper))))
            lower, upper, phase = np.minimum(lower, -least), np.maximum(upper, least), np.zeros(len(lower), np.int8)
        if phases is not None:
            phase = np.asarray(phases[k], dtype=np.int8)
        asked = np.zeros(len(lower), bool)
        asked[questions.neuron[questions.layer == k]] = True
        if (asked & (phase != 0)).any():
            i = int(np.flatnonzero(asked & (phase != 0))[0])
            raise InputError(f"layer {k}, neuron {i}: a question is asked of a neuron whose phase is decided")
        if not witness:
            phase = np.where(asked & ~needed[k], np.int8(-1), phase)
        keep = np.flatnonzero(asked | (needed[k] & (phase >= 0)))
        for term in network.layers[k].affine.terms:
            if term.source > 0:
                needed[term.source - 1] |= _touched(term.matrix, keep)
        lower, upper = lower[keep], upper[keep]
        scale = power_of_two(np.maximum(np.abs(lower), np.abs(upper)))
        plans.append(LayerPlan(keep, phase[keep], lower, upper, scale))
    return plans[::-1]


def _touched(matrix: Any, rows: Index) -> npt.NDArray[np.bool_]:
    """Columns with a nonzero in one of the rows."""
    if isinstance(matrix, np.ndarray):
        return np.asarray((matrix[rows] != 0).any(axis=0))
    touched = np.zeros(matrix.shape[1], bool)
    chosen = matrix[rows]
    touched[chosen.indices[chosen.data != 0]] = True
    return touched


def handles_of(assembled: Assembled, questions: Questions, formulation: Formulation) -> list[Handle]:
    """The handle of each question. Raises `UnsupportedError` if the formulation offers none."""
    handles: list[Handle] = []
    places: list[dict[int, int]] = []
    for built in assembled.layers:
        neurons = built.relu.neurons.tolist() if built.relu is not None else []
        places.append({neuron: i for i, neuron in enumerate(neurons)})
    for k, neuron, side in zip(
        questions.layer.tolist(), questions.neuron.tolist(), questions.side.tolist(), strict=True
    ):
        encoding = assembled.layers[k].encoding
        offered = encoding.positive if side > 0 else encoding.negative
        if not offered:
            raise UnsupportedError(
                f"formulation {formulation.name!r} cannot ask questions in an objective (it has no handles)"
            )
        handles.append(offered[places[k][neuron]])
    return handles


def add_witness_values(model: Any, questions: Questions, handles: Sequence[Handle]) -> list[Any]:
    """One variable in [0, 1] per question, tied to its handle; their sum is the objective."""
    import pyomo.environ as pyo

    from stablenet.milp.affine_rows import AffineRows

    witness: list[Any] = []
    for name, side in (("positive", 1), ("negative", -1)):
        chosen = np.flatnonzero(questions.side == side)
        keys = list(zip(questions.layer[chosen].tolist(), questions.neuron[chosen].tolist(), strict=True))
        model.add_component(name, pyo.Var(keys, bounds=(0.0, 1.0)))
        witness += list(model.component(name).values())
    affine = [(p, h) for p, h in zip(witness, handles, strict=True) if isinstance(h, AffineHandle)]
    if affine:
        eye = sparse.eye_array(len(affine), format="csr")
        slopes = sparse.diags_array(np.array([-h.coefficient for _, h in affine]))
        constants = np.array([h.constant for _, h in affine])
        variables = [*(p for p, _ in affine), *(h.variable for _, h in affine)]
        model.witnessed = AffineRows(sparse.csr_array(sparse.hstack([eye, slopes])), variables, -np.inf, constants)
    pairs = [(p, h.partner) for p, h in zip(witness, handles, strict=True) if isinstance(h, SosHandle)]
    if pairs:
        # Where g is 0 both partners are; no input witnesses both signs of a neuron.
        pairs += [(model.positive[key], model.negative[key]) for key in model.positive if key in model.negative]
        model.pairs = pyo.SOSConstraint(range(len(pairs)), rule=lambda _, i: list(pairs[i]), sos=1)
    model.objective = pyo.Objective(expr=pyo.quicksum(witness), sense=pyo.maximize)
    return witness
