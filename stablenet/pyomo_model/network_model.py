"""Network, part of the domain, bounds and formulation, made into a Pyomo model.

`build_model` gives users a plain model of the whole network. `stablenet.pyomo_model.search_model` builds on the same
`assemble`, with margins, scaling and questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.arrays import Array, Index
from stablenet.core.bounds import Bounds, LayerBounds
from stablenet.core.errors import DomainError, InputError
from stablenet.core.network import AffineMap, Network
from stablenet.domain.regions import Domain, Part
from stablenet.formulations.base import Encoding, Formulation, ReluLayer, add_variables, registry
from stablenet.milp.matrices import Matrix, Variables, to_csr

if TYPE_CHECKING:
    from stablenet.milp.affine_rows import AffineRows

Phase = npt.NDArray[np.int8]


CROSSED = 1e-6
"""Bounds that cross by more (relative) are an error, not the tolerance of a solver that tightened them."""


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """What one layer contributes: its kept neurons with phase, bounds and scale, all (kept,).

    The pre-activation's column is ``scale * g``; ``scale`` are powers of two. The bounds are those of g itself.
    A neuron of phase -1 has no post-activation, one of phase 1 shares its pre-activation's column.
    """

    neurons: Index
    phase: Phase
    lower: Array
    upper: Array
    scale: Array


@dataclass(frozen=True, eq=False)
class Source:
    """Columns that a layer reads: those neurons (or inputs) of a source that can be nonzero.

    ``variables[i]`` is ``scale[i]`` times the value of entry ``neurons[i]`` of the source.
    """

    neurons: Index
    variables: Variables
    scale: Array
    lower: Array
    upper: Array


@dataclass(frozen=True, eq=False)
class BuiltLayer:
    """One layer of an assembled model: its plan, its pre-activation variables and what was encoded."""

    plan: LayerPlan
    pre: Variables
    relu: ReluLayer | None
    encoding: Encoding
    reads: tuple[tuple[int, Index, Array], ...]  # source, entries, scale: what `relu.inputs` are made of


@dataclass(frozen=True, eq=False)
class Assembled:
    """A model under construction or built."""

    model: Any
    inputs: Source
    layers: tuple[BuiltLayer, ...]
    sources: tuple[Source, ...]


def power_of_two(magnitude: Array) -> Array:
    """Powers of two that bring the magnitudes into [0.5, 1); 1 for a magnitude of 0."""
    _, exponent = np.frexp(magnitude)
    return np.where(magnitude > 0, np.ldexp(1.0, -np.clip(exponent, -200, 200)), 1.0)


def resolve(formulation: str | Formulation) -> Formulation:
    """The formulation itself, or the registered one of that specification."""
    return registry.get(formulation) if isinstance(formulation, str) else formulation


def one_part(domain: Domain) -> Part:
    """The only part of a domain; raises `DomainError` if it has several."""
    if len(domain.parts) != 1:
        raise DomainError(f"a model takes a domain of one part, this one has {len(domain.parts)}; build one per part")
    return domain.parts[0]


def check_fit(network: Network, part: Part, bounds: Bounds) -> None:
    """Raise `InputError` unless domain and bounds are for this network and the bounds are usable."""
    if part.n_inputs != network.n_inputs:
        raise DomainError(f"the domain has {part.n_inputs} inputs, the network {network.n_inputs}")
    if len(bounds.layers) != len(network.layers):
        raise InputError(f"bounds for {len(bounds.layers)} layers, the network has {len(network.layers)}")
    for k, (layer, known) in enumerate(zip(network.layers, bounds.layers, strict=True)):
        if len(known.lower) != layer.size:
            raise InputError(f"layer {k}: bounds for {len(known.lower)} neurons, the layer has {layer.size}")
        bad = np.flatnonzero(~(np.isfinite(known.lower) & np.isfinite(known.upper)))
        if bad.size:
            i = int(bad[0])
            raise InputError(
                f"layer {k}, neuron {i}: bounds [{known.lower[i]}, {known.upper[i]}]; a formulation needs finite ones"
            )
        crossed = np.flatnonzero(known.lower - known.upper > CROSSED * (1.0 + np.abs(known.lower)))
        if crossed.size:
            i = int(crossed[0])
            raise InputError(
                f"layer {k}, neuron {i}: lower bound {known.lower[i]} exceeds upper bound {known.upper[i]}; "
                "bounds of a part that is not empty cannot"
            )


def usable(known: LayerBounds) -> tuple[Array, Array]:
    """Bounds as a formulation takes them: where two tolerances have made them cross, both ends of the gap count."""
    return np.minimum(known.lower, known.upper), np.maximum(known.lower, known.upper)


def assemble(
    network: Network,
    part: Part,
    plans: Sequence[LayerPlan],
    formulation: Formulation,
    *,
    margin: float,
    scaled: bool,
    complete: bool,
    deviations: Sequence[Array | None] | None = None,
) -> Assembled:
    """Inputs and the layers of ``plans`` as a Pyomo model.

    ``margin`` widens affine rows and the bounds of pre-activations, in units of the scaled columns. ``deviations`` are
    what float32 evaluations may be off each layer's affine map, (n_k,) in its own units: they widen its rows too. With
    ``complete``, neurons of phase -1 get a post-activation that is 0, for users to find.
    """
    import pyomo.environ as pyo

    model = pyo.ConcreteModel()
    inputs = _inputs(model, part, scaled=scaled, margin=margin)
    return _add_layers(
        *(model, inputs, network, plans, formulation), margin=margin, complete=complete, deviations=deviations
    )


def _add_layers(
    block: Any,
    inputs: Source,
    network: Network,
    plans: Sequence[LayerPlan],
    formulation: Formulation,
    *,
    margin: float,
    complete: bool,
    deviations: Sequence[Array | None] | None = None,
) -> Assembled:
    """The layers as ``block.layer``, over inputs that are there already."""
    import pyomo.environ as pyo

    block.layer = pyo.Block(range(len(plans)))
    sources, layers = [inputs], []
    for k, plan in enumerate(plans):
        slack = np.full(len(plan.neurons), margin)
        deviation = None if deviations is None else deviations[k]
        if deviation is not None:
            slack = np.nextafter(slack + deviation[plan.neurons] * plan.scale, np.inf)
        built, source = _layer(
            block.layer[k],
            network.layers[k].affine,
            plan,
            sources,
            formulation,
            margin=margin,
            slack=slack,
            complete=complete,
        )
        layers.append(built)
        sources.append(source)
    return Assembled(block, inputs, tuple(layers), tuple(sources))


def add_exact(
    block: Any,
    inputs: Source,
    network: Network,
    bounds: Bounds,
    formulation: Formulation,
    *,
    outputs: Variables | None = None,
) -> None:
    """All layers, and the rows that tie the outputs to them, neither relaxed nor scaled.

    Without ``outputs`` they are new variables, ``block.output``.
    """
    import pyomo.environ as pyo

    plans = [LayerPlan(np.arange(len(b.lower)), b.phase, *usable(b), np.ones(len(b.lower))) for b in bounds.layers]
    built = _add_layers(block, inputs, network, plans, formulation, margin=0.0, complete=True)
    rows = np.arange(network.n_outputs)
    matrix, used = stack_sources(network.output, rows, np.ones(len(rows)), built.sources)
    read = [v for source in used for v in source.variables]
    if outputs is None:
        block.output = pyo.Var(rows.tolist())
        outputs = list(block.output.values())
    block.output_rows = affine_rows(matrix, read, network.output.offset, outputs, 0.0)


def source_magnitudes(part: Part, bounds: Bounds) -> list[Array]:
    """Largest magnitudes of the inputs and of each layer's post-activations, by bounds of its pre-activations."""
    box = np.maximum(np.abs(part.lower), np.abs(part.upper))
    return [box, *(np.maximum(known.upper, 0.0) for known in bounds.layers)]


def row_deviations(network: Network, part: Part, bounds: Bounds) -> list[Array | None]:
    """What float32 evaluations may be off each layer's affine map on a part, (n_k,); None where only the real counts.

    ``bounds`` bound every evaluation's pre-activations.
    """
    most = source_magnitudes(part, bounds)
    return [layer.affine.deviation(most) for layer in network.layers]


def _inputs(model: Any, part: Part, *, scaled: bool, margin: float) -> Source:
    n = part.n_inputs
    scale = power_of_two(np.maximum(np.abs(part.lower), np.abs(part.upper))) if scaled else np.ones(n)
    lower, upper = part.lower * scale, part.upper * scale
    variables = add_variables(model, "x", np.arange(n), lower, upper)
    if part.a is not None and part.b is not None:
        from stablenet.milp.affine_rows import AffineRows

        rows = part.a / scale
        row_scale = power_of_two(np.abs(rows).max(axis=1, initial=0.0)) if scaled else np.ones(len(rows))
        model.domain = AffineRows(rows * row_scale[:, None], variables, -np.inf, part.b * row_scale + margin)
    return Source(np.arange(n), variables, scale, lower, upper)


def stack_sources(
    affine: AffineMap, rows: Index, row_scale: Array, sources: Sequence[Source]
) -> tuple[Matrix, list[Source]]:
    """The chosen rows of an affine map over the columns of its sources, side by side, in scaled units.

    Terms on the same source are added up. Multiplying by powers of two is exact.
    """
    by_source: dict[int, Matrix] = {}
    for term in affine.terms:
        source = sources[term.source]
        chosen = _choose(term.matrix, rows, source.neurons, row_scale, 1.0 / source.scale)
        known = by_source.get(term.source)
        by_source[term.source] = chosen if known is None else _add(known, chosen)
    used = [sources[s] for s in by_source]
    blocks = list(by_source.values())
    if not blocks:
        return np.zeros((len(rows), 0)), []
    if len(blocks) == 1:
        return blocks[0], used
    if all(isinstance(block, np.ndarray) for block in blocks):
        return np.hstack([np.asarray(block) for block in blocks]), used
    return sparse.csr_array(sparse.hstack([sparse.csr_array(block) for block in blocks])), used


def _choose(matrix: Matrix, rows: Index, columns: Index, row_scale: Array, column_scale: Array) -> Matrix:
    if isinstance(matrix, np.ndarray):
        part = matrix if len(rows) == len(matrix) and len(columns) == matrix.shape[1] else matrix[np.ix_(rows, columns)]
        with np.errstate(over="ignore"):  # numbers that are not finite are refused where rows are made
            return np.asarray(part * row_scale[:, None] * column_scale)
    chosen = sparse.csr_array(matrix[rows][:, columns])
    scaled = sparse.diags_array(row_scale) @ chosen @ sparse.diags_array(column_scale)
    return sparse.csr_array(scaled)


def _add(a: Matrix, b: Matrix) -> Matrix:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a + b
    return sparse.csr_array(sparse.csr_array(a) + sparse.csr_array(b))


def affine_rows(
    matrix: Matrix, inputs: Variables, offset: Array, values: Variables, margin: float | Array
) -> AffineRows:
    """Rows ``matrix @ inputs - values = -offset``, each within ``margin``, one number or (rows,)."""
    from stablenet.milp.affine_rows import AffineRows

    n = len(values)
    csr = to_csr(matrix)
    counts = np.diff(csr.indptr)
    ends = csr.indptr[1:]
    data, indices = np.insert(csr.data, ends, -1.0), np.insert(csr.indices, ends, len(inputs) + np.arange(n))
    indptr = np.concatenate([[0], np.cumsum(counts + 1)])
    rows = sparse.csr_array((data, indices, indptr), shape=(n, len(inputs) + n))
    return AffineRows(rows, [*inputs, *values], -offset - margin, -offset + margin)


def _layer(
    block: Any,
    affine: AffineMap,
    plan: LayerPlan,
    sources: Sequence[Source],
    formulation: Formulation,
    *,
    margin: float,
    slack: Array,
    complete: bool,
) -> tuple[BuiltLayer, Source]:
    matrix, used = stack_sources(affine, plan.neurons, plan.scale, sources)
    offset = affine.offset[plan.neurons] * plan.scale
    inputs = [v for source in used for v in source.variables]
    lower, upper = plan.lower * plan.scale - margin, plan.upper * plan.scale + margin
    undecided = np.flatnonzero(plan.phase == 0)
    lower[undecided] = np.minimum(lower[undecided], 0.0)
    upper[undecided] = np.maximum(upper[undecided], 0.0)
    pre = add_variables(block, "pre", plan.neurons, lower, upper)
    block.affine = affine_rows(matrix, inputs, offset, pre, slack)

    open_post = plan.neurons[undecided]
    own = "encoded" if complete else "post"
    post = dict(zip(undecided.tolist(), add_variables(block, own, open_post, 0.0, upper[undecided]), strict=True))
    reads = tuple((sources.index(s), s.neurons, s.scale) for s in used)
    relu, encoding = None, Encoding()
    if undecided.size:
        relu = ReluLayer(
            neurons=open_post,
            inputs=inputs,
            matrix=matrix if undecided.size == len(pre) else matrix[undecided],
            offset=offset[undecided],
            pre=[pre[i] for i in undecided],
            post=list(post.values()),
            lower=lower[undecided],
            upper=upper[undecided],
            input_lower=np.concatenate([s.lower for s in used] or [np.zeros(0)]),
            input_upper=np.concatenate([s.upper for s in used] or [np.zeros(0)]),
            scale=plan.scale[undecided],
            margin=float(slack[undecided].max()),
            slack=slack[undecided],
        )
        encoding = formulation.encode(block, relu)
    carrying = np.flatnonzero(plan.phase >= 0)
    variables = [post.get(i, pre[i]) for i in carrying.tolist()]
    if complete:
        _readable_post(block, plan, carrying, variables)
    low = np.where(plan.phase[carrying] == 0, 0.0, lower[carrying])
    source = Source(plan.neurons[carrying], variables, plan.scale[carrying], low, upper[carrying])
    return BuiltLayer(plan, pre, relu, encoding, reads), source


def _readable_post(block: Any, plan: LayerPlan, carrying: Index, variables: Variables) -> None:
    """``block.post[i]`` for every neuron: the encoded one, the pre-activation of an active one, or a 0."""
    import pyomo.environ as pyo

    idle = plan.neurons[plan.phase < 0]
    zeros = dict(zip(idle.tolist(), add_variables(block, "idle", idle, 0.0, 0.0), strict=True))
    named = zeros | dict(zip(plan.neurons[carrying].tolist(), variables, strict=True))
    block.post = pyo.Reference({i: named[i] for i in plan.neurons.tolist()})


def build_model(network: Network, domain: Domain, *, bounds: Bounds, formulation: str | Formulation = "bigm") -> Any:
    """A Pyomo `ConcreteModel` of the network on a domain of one part, exact, without objective.

    Variables: ``x[i]``; for each layer k and neuron i ``layer[k].pre[i]`` and ``layer[k].post[i]``; ``output[j]``; and
    what the formulation adds, such as ``layer[k].is_active[i]`` for neurons that the bounds leave undecided. ``bounds``
    hold on the domain. Raises `DomainError` for a domain of several parts, `InputError` for bounds that do not fit.
    """
    import pyomo.environ as pyo

    part = one_part(domain)
    check_fit(network, part, bounds)
    chosen = resolve(formulation)
    model = pyo.ConcreteModel()
    add_exact(model, _inputs(model, part, scaled=False, margin=0.0), network, bounds, chosen)
    return model
