"""The model that a search solves: pending questions in the objective, rows relaxed, columns scaled.

The single MILP of Serra, Yu, Kumar & Ramalingam, *Scaling Up Exact Neural Network Compression by ReLU
Stability* (NeurIPS 2021, arXiv 2102.07804): each pending question gets a witness value in [0, 1] that the encoding lets
be 1 where the question is witnessed; their sum is maximised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.backends.base import Limits, Session
from stablenet.core.arrays import Array, Index
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError
from stablenet.core.network import Network
from stablenet.domain.regions import Part
from stablenet.formulations.base import AffineHandle, Formulation, Handle, SosHandle
from stablenet.milp.arrays import MILP, Rows
from stablenet.milp.compiler import CompiledModel, compile_model
from stablenet.milp.matrices import Variables
from stablenet.milp.tiny_coefficients import drop_tiny
from stablenet.pyomo_model.network_model import Assembled, Phase, assemble, check_fit, resolve, row_deviations
from stablenet.pyomo_model.search_plan import (
    Questions,
    add_witness_values,
    handles_of,
    layer_plans,
    questions_of,
)


@dataclass(frozen=True, eq=False)
class PreColumns:
    """Columns of a layer's kept pre-activations: column ``columns[i]`` is ``scale[i]`` times g of ``neurons[i]``."""

    neurons: Index
    columns: Index
    scale: Array


@dataclass(frozen=True, eq=False)
class _Asked:
    """Arrays (q,) behind the handles of the questions."""

    pre: Index
    handle: Index
    coefficient: Array
    constant: Array
    sos: npt.NDArray[np.bool_]


class SearchModel:
    """A Pyomo model with its questions, its arrays and the ways between points of the domain and columns.

    ``model`` is the `ConcreteModel`, ``questions`` the pending questions in the order of ``question_columns``.
    ``permutation``, set before the arrays are first used, seeds an order of rows and columns.
    """

    def __init__(
        self,
        network: Network,
        part: Part,
        assembled: Assembled,
        *,
        formulation: Formulation,
        questions: Questions,
        handles: Sequence[Handle],
        witness: Variables,
    ) -> None:
        self.network = network
        self.part = part
        self.model = assembled.model
        self.formulation = formulation
        self.questions = questions
        self.permutation: int | None = None
        self._built = assembled
        self._handles = handles
        self._witness = witness

    @cached_property
    def compiled(self) -> CompiledModel:
        """The compiled model, permuted if a seed was given; see `compile_model`."""
        compiled = compile_model(self.model)
        return compiled if self.permutation is None else compiled.permuted(self.permutation)

    @property
    def milp(self) -> MILP:
        """The arrays for a backend."""
        return self.compiled.milp

    @cached_property
    def question_columns(self) -> Index:
        """Columns of the witness values, (q,)."""
        return self.compiled.columns(self._witness)

    @cached_property
    def input_columns(self) -> Index:
        """Columns of the inputs, (n_inputs,); each is ``input_scale`` times the input."""
        return self.compiled.columns(self._built.inputs.variables)

    @property
    def input_scale(self) -> Array:
        """Powers of two, (n_inputs,)."""
        return self._built.inputs.scale

    @cached_property
    def pre(self) -> tuple[PreColumns, ...]:
        """Pre-activation columns of each layer that the model has."""
        return tuple(PreColumns(b.plan.neurons, self.compiled.columns(b.pre), b.plan.scale) for b in self._built.layers)

    def inputs(self, vector: Array) -> Array:
        """Inputs of column vectors, (N,) or (b, N), unscaled and clipped to the part's box."""
        return self.part.clip(vector[..., self.input_columns] / self.input_scale)

    def claims(self, vector: Array) -> npt.NDArray[np.bool_]:
        """Which questions have a witness value above 1/2 in a solution, (q,)."""
        return np.asarray(vector[..., self.question_columns] > 0.5)

    def point(self, x: Array) -> Array:
        """The column vector of a forward pass at ``x`` (n_inputs,); see `points`."""
        return np.asarray(self.points(x[None, :])[0])

    def points(self, x: Array) -> Array:
        """Column vectors (b, N) of forward passes at ``x`` (b, n_inputs).

        A witness value is 1 where the pre-activation has the question's sign and the encoding allows it, else 0.
        """
        values = np.zeros((len(x), self.milp.n_columns))
        values[:, self.input_columns] = x * self.input_scale
        pre = self.network.pre_activations(x, len(self._built.layers))
        posts = [x, *(np.maximum(g, 0.0) for g in pre)]
        for k, built in enumerate(self._built.layers):
            values[:, self.pre[k].columns] = pre[k][:, built.plan.neurons] * built.plan.scale
            self._encode(values, k, pre[k], posts)
        asked = self._asked
        shown = values[:, asked.pre] * self.questions.side > 0
        cap = np.clip(asked.coefficient * values[:, asked.handle] + asked.constant, 0.0, 1.0)
        cap = np.where(asked.sos, values[:, asked.handle] == 0, cap)
        values[:, self.question_columns] = np.where(shown, cap, 0.0)
        return values

    def _encode(self, values: Array, layer: int, pre: Array, posts: Sequence[Array]) -> None:
        """Fill in the columns of a layer's encoding."""
        built = self._built.layers[layer]
        if built.relu is None:
            return
        open_ = np.flatnonzero(built.plan.phase == 0)
        scaled = pre[:, built.plan.neurons[open_]] * built.plan.scale[open_]
        post, variables = self._own_columns[layer]
        values[:, post] = np.maximum(scaled, 0.0)
        inputs = np.concatenate(
            [posts[s][:, entries] * scale for s, entries, scale in built.reads] or [np.zeros((len(pre), 0))], axis=1
        )
        assigned = self.formulation.assign(built.relu, inputs, scaled)
        for name, place in variables.items():
            values[:, place] = assigned[name]

    @cached_property
    def _own_columns(self) -> tuple[tuple[Index, dict[str, Index]], ...]:
        """Per layer the columns of the encoded post-activations and of the formulation's own variables."""
        columns = self.compiled.columns
        return tuple(
            (
                columns(built.relu.post if built.relu is not None else []),
                {name: columns(variables) for name, variables in built.encoding.variables.items()},
            )
            for built in self._built.layers
        )

    @cached_property
    def _asked(self) -> _Asked:
        """Per question the columns of its pre-activation and of its handle."""
        pre = np.zeros(len(self.questions), dtype=np.intp)
        for k, columns in enumerate(self.pre):
            here = np.flatnonzero(self.questions.layer == k)
            pre[here] = columns.columns[np.searchsorted(columns.neurons, self.questions.neuron[here])]
        affine = [h if isinstance(h, AffineHandle) else AffineHandle(h.partner, 0.0, 0.0) for h in self._handles]
        return _Asked(
            pre,
            self.compiled.columns([h.variable for h in affine]),
            np.array([h.coefficient for h in affine]),
            np.array([h.constant for h in affine]),
            np.array([isinstance(h, SosHandle) for h in self._handles]),
        )

    def question_objective(self, layer: int, neuron: int, side: int) -> tuple[Array, float]:
        """Objective for one question alone, and its scale.

        Maximise the vector (N,): its value divided by the scale is ``side * g`` of the neuron, so that a valid dual
        bound of at most 0 refutes the question. Raises `InputError` if the model has no such pre-activation.
        """
        if not 0 <= layer < len(self.pre):
            raise InputError(f"the model has layers 0 to {len(self.pre) - 1}, not {layer}")
        at = np.flatnonzero(self.pre[layer].neurons == neuron)
        if not at.size:
            raise InputError(f"the model has no pre-activation of neuron {neuron} of layer {layer}")
        objective = np.zeros(self.milp.n_columns)
        objective[self.pre[layer].columns[at[0]]] = side
        return objective, float(self.pre[layer].scale[at[0]])

    def root_rounds(self, session: Session, limits: Limits, *, rounds: int = 20, progress: float = 1e-4) -> int:
        """Add cuts to a loaded model in rounds on its root relaxation; returns the number of rows added.

        Stops when no cut is violated, when a round moves the relaxation's bound by less than ``progress`` of its
        size, after ``rounds``, or where the relaxation is not solved to the end. The session's objective is used.
        """
        added, before = 0, np.inf
        for _ in range(rounds):
            relaxed = session.relax(limits)
            if relaxed.x is None or relaxed.objective is None:
                break
            if abs(before - relaxed.objective) < progress * max(1.0, abs(relaxed.objective)):
                break
            cuts = self.separate(relaxed.x)
            if cuts is None:
                break
            session.add_rows(cuts)
            added, before = added + len(cuts.lower), relaxed.objective
        return added

    def separate(self, point: Array) -> Rows | None:
        """Valid rows that cut off an LP point (N,), from formulations that offer cuts; None if there are none.

        Tiny coefficients are dropped as `compile_model` does.
        """
        found = []
        for built in self._built.layers:
            if built.relu is None:
                continue
            cuts = self.formulation.separate(built.relu, built.encoding, lambda v: point[self.compiled.columns(v)])
            if cuts is not None and len(cuts.lower):
                matrix = sparse.coo_array(cuts.matrix)
                columns = self.compiled.columns(cuts.variables)[matrix.coords[1]]
                wide = sparse.csr_array(
                    (matrix.data, (matrix.coords[0], columns)), shape=(len(cuts.lower), self.milp.n_columns)
                )
                found.append(Rows(wide, cuts.lower, cuts.upper))
        if not found:
            return None
        rows = Rows(
            sparse.csr_array(sparse.vstack([rows.matrix for rows in found])),
            np.concatenate([rows.lower for rows in found]),
            np.concatenate([rows.upper for rows in found]),
        )
        return drop_tiny(rows, self.milp)


def build_search_model(
    network: Network,
    part: Part,
    bounds: Bounds,
    formulation: str | Formulation,
    *,
    positive: Sequence[npt.ArrayLike],
    negative: Sequence[npt.ArrayLike],
    margin: float,
    decide: bool = True,
    phases: Sequence[Phase] | None = None,
    witness: bool = True,
) -> SearchModel:
    """The single MILP for the pending questions ``positive[k]`` and ``negative[k]`` (neuron numbers of layer k).

    Only layers up to the last with a question, and in them only neurons that a question depends on, are
    modelled. Neurons whose phase the bounds decide need no encoding (``phases``, int8 per layer, replaces what
    the bounds say); with ``decide`` False every neuron keeps its binary, with bounds enlarged to
    ``min(L, -1)`` and ``max(U, 1)`` (less for tiny neurons, see `stablenet.pyomo_model.search_plan.ENLARGED`).
    Each pre-activation and input is scaled by a power of two to a magnitude
    below 1; ``margin``, in these units, widens every affine row, the rows of a polytope, and the bounds of
    pre-activations. With ``witness`` False there are no witness values and no objective, for asking one question
    at a time by `SearchModel.question_objective`; a relaxation can only be asked so.

    Raises `InputError` for bounds or questions that do not fit, `UnsupportedError` if the formulation has no
    handles for questions.
    """
    formulation = resolve(formulation)
    check_fit(network, part, bounds)
    if not (np.isfinite(margin) and margin >= 0):
        raise InputError(f"margin {margin}; a finite number >= 0 is expected")
    questions = questions_of(network, positive, negative)
    plans = layer_plans(network, bounds, questions, decide=decide, phases=phases, witness=witness)
    assembled = assemble(
        *(network, part, plans, formulation),
        margin=margin,
        scaled=True,
        complete=False,
        deviations=row_deviations(network, part, bounds),
    )
    handles: list[Handle] = []
    values: list[Any] = []
    if witness:
        handles = handles_of(assembled, questions, formulation)
        values = add_witness_values(assembled.model, questions, handles)
    else:
        questions = Questions(questions.layer[:0], questions.neuron[:0], questions.side[:0])
    return SearchModel(
        network,
        part,
        assembled,
        formulation=formulation,
        questions=questions,
        handles=handles,
        witness=values,
    )
