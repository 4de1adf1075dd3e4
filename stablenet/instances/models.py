"""A recipe's `MILP`, with a feasible point where a forward pass gives one; the same bytes on every machine.

Bounds are those of `crown`, whose last bits depend on the order of sums. So they are rounded outward to `DIGITS` bits,
and with them all that stands in the model: a difference in a last bit vanishes but for one in some 2^36 of the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from stablenet.bounds import run as run_bounds
from stablenet.core.arrays import Array, Mask
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError
from stablenet.core.network import Network
from stablenet.domain.regions import Box, LinfBall, Part, Polytope
from stablenet.domain.spec import parse_domain
from stablenet.instances.images import images
from stablenet.instances.recipes import DomainRecipe, NetworkRecipe, PublicNetwork, Recipe
from stablenet.instances.training import Trained, train
from stablenet.milp.affine_rows import AffineRows
from stablenet.milp.arrays import MILP
from stablenet.milp.check_solution import check_solution
from stablenet.pyomo_model.network_model import build_model
from stablenet.pyomo_model.search_model import SearchModel, build_search_model

DIGITS = 16
"""Significant bits of bounds."""

SAMPLES = 512
"""Random inputs of the domain, beside the training images in it, that witness questions before a model is made."""

PAPER = 2000
"""On all of [0, 1] more images than this are the only samples, as in Serra et al. 2021: more questions are left."""


@dataclass(frozen=True, eq=False)
class Instance:
    """A model, the best point among forward passes (n,) or None, what its optimum says, and the network behind it."""

    milp: MILP
    point: Array | None
    meaning: str
    network: Network
    accuracy: float | None


@lru_cache(maxsize=4)
def trained(recipe: NetworkRecipe) -> Trained:
    """The trained network of a recipe."""
    pixels, labels = images(recipe.data)
    return train(recipe.architecture, pixels, labels, l1=recipe.l1, seed=recipe.seed, epochs=recipe.epochs)


def build(recipe: Recipe, networks: Path | None = None) -> Instance:
    """The model of a recipe.

    Args:
        recipe: of the library, or of a public network.
        networks: the folder with public networks.

    Returns:
        The model and what is known of it.

    Raises:
        InputError: a file is missing, or no question is left to ask.
        NotInstalledError: the images are not there.
    """
    accuracy = None
    if isinstance(recipe.network, PublicNetwork):
        if networks is None:
            raise InputError(f"{recipe.name}: --networks names no folder with {recipe.network.file}")
        from stablenet.onnx_io.reader import load_onnx

        network = load_onnx(networks / recipe.network.file)
        spec = recipe.network.domain
        domain = parse_domain(spec if spec.startswith("box:") else str(networks / spec), network.n_inputs)
        parts: tuple[Part, ...] = domain.parts
        known = np.zeros((0, network.n_inputs))
    else:
        found = trained(recipe.network)
        network, accuracy = found.network, found.accuracy
        known = images(recipe.network.data)[0]
        parts = regions(recipe.domain, known)
    bounds = rounded_bounds(network, parts)
    if recipe.kind == "optimise":
        part = parts[0] if len(parts) == 1 else hull(parts)
        milp, point, meaning = _optimise(network, part, bounds, recipe)
    else:
        milp, point, meaning = _search(network, parts, bounds, recipe, known)
    if point is not None and not check_solution(milp, point).feasible(1e-9):
        point = None
    return Instance(milp, point, meaning, network, accuracy)


def regions(recipe: DomainRecipe, pixels: Array) -> tuple[Part, ...]:
    """The parts of a domain around images (n, inputs)."""
    n = pixels.shape[1]
    whole = np.zeros(n), np.ones(n)
    if recipe.kind == "box":
        return (Box(*whole),)
    if recipe.kind == "budget":
        return (Polytope(*whole, np.ones((1, n)), np.array([np.floor(n * recipe.eps)])),)
    return tuple(LinfBall(pixels[i], recipe.eps, 0.0, 1.0) for i in recipe.images)


def hull(parts: tuple[Part, ...]) -> Box:
    """The smallest box that holds all parts."""
    return Box(np.min([p.lower for p in parts], axis=0), np.max([p.upper for p in parts], axis=0))


def rounded_bounds(network: Network, parts: tuple[Part, ...]) -> Bounds:
    """CROWN's bounds that hold on every part, rounded outward to `DIGITS` bits."""
    found = [run_bounds("crown", network, part) for part in parts]
    sides = []
    for k in range(len(network.layers)):
        lower = np.min([b.layers[k].lower for b in found], axis=0)
        upper = np.max([b.layers[k].upper for b in found], axis=0)
        sides.append((_outward(lower, np.floor), _outward(upper, np.ceil)))
    return Bounds.of("crown", sides, rigorous=True)


def _outward(values: Array, direction: Any) -> Array:
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(direction(np.ldexp(mantissa, DIGITS)), exponent - DIGITS)) + 0.0


def samples(parts: tuple[Part, ...], known: Array, seed: int) -> Array:
    """Inputs of the domain (b, n): images in it, corners and other points with coordinates of few bits."""
    rng = np.random.default_rng(seed)
    chosen = []
    for part in parts:
        share = rng.integers(0, 17, (SAMPLES, part.n_inputs)) / 16.0
        share[: SAMPLES // 2] = np.rint(share[: SAMPLES // 2])
        # Scaled towards the lower end by turns, so that rows that bound a sum are met too.
        share *= rng.integers(1, 17, (SAMPLES, 1)) / 16.0
        points = np.concatenate([known, part.clip(part.lower + share * (part.upper - part.lower))])
        chosen.append(points[part.holds(points)])
    return np.concatenate(chosen)


def _witnessed(network: Network, points: Array) -> tuple[list[Mask], list[Mask]]:
    """Per layer, which neurons some point shows to be positive, and negative."""
    positive, negative = ([np.zeros(layer.size, dtype=bool) for layer in network.layers] for _ in range(2))
    for begin in range(0, len(points), 1024):
        evaluation = network.evaluate(points[begin : begin + 1024])
        for k in range(len(network.layers)):
            signs = evaluation.signs(k)
            positive[k] |= (signs > 0).any(axis=0)
            negative[k] |= (signs < 0).any(axis=0)
    return positive, negative


def _search(
    network: Network, parts: tuple[Part, ...], bounds: Bounds, recipe: Recipe, known: Array
) -> tuple[MILP, Array | None, str]:
    part = parts[0] if len(parts) == 1 else hull(parts)
    whole = recipe.domain.kind == "box" and len(known) > PAPER
    points = known if whole else samples(parts, known, recipe.choice)
    seen = _witnessed(network, points)
    pending = [[np.flatnonzero((b.phase == 0) & ~shown[k]) for k, b in enumerate(bounds.layers)] for shown in seen]
    count = sum(len(asked) for side in pending for asked in side)
    if not count:
        raise InputError(f"{recipe.name}: bounds and samples close every question")
    single = recipe.kind == "question"
    chosen = _pick(pending, recipe.choice) if single else None
    if chosen is not None:
        layer, neuron, side = chosen
        asked = [np.array([neuron] if k == layer else [], dtype=np.intp) for k in range(len(network.layers))]
        pending = [asked, []] if side > 0 else [[], asked]
    model = build_search_model(
        network, part, bounds, recipe.formulation, positive=pending[0], negative=pending[1], margin=0.0,
        witness=not single,
    )  # fmt: skip
    members = _add_union(model, parts) if len(parts) > 1 else None
    milp = model.milp
    if chosen is not None:
        layer, neuron, side = chosen
        objective, scale = model.question_objective(layer, neuron, side)
        milp = replace(milp, objective=objective, constant=0.0, maximize=True)
        meaning = f"{side * scale:g} times the pre-activation of neuron {neuron} of layer {layer}"
    else:
        meaning = f"how many of {count} pending questions one input witnesses"
    return milp, _best(model, milp, points, parts, members), meaning


def _pick(pending: list[list[Any]], choice: int) -> tuple[int, int, int]:
    """Layer, neuron and side of a pending question: in the last layer that has some, a quarter further by choice."""
    for k in range(len(pending[0]) - 1, -1, -1):
        here = [(k, int(i), side) for side, asked in zip((1, -1), pending, strict=True) for i in asked[k]]
        if here:
            return here[min(len(here) - 1, choice * len(here) // 4)]
    raise AssertionError("no question is pending")


def _add_union(model: SearchModel, parts: tuple[Part, ...]) -> list[Any]:
    """Rows and binaries of a union of boxes: the input is in the part whose binary is 1."""
    import pyomo.environ as pyo

    pyomo_model = model.model
    pyomo_model.part = pyo.Var(range(len(parts)), domain=pyo.Binary)
    members = list(pyomo_model.part.values())
    n, scale = model.part.n_inputs, model.input_scale[:, None]
    upper, lower = (np.stack([getattr(p, side) for p in parts], axis=1) * scale for side in ("upper", "lower"))
    choose = np.concatenate([np.zeros(n), np.ones(len(parts))])[None, :]
    eye = np.eye(n)
    matrix = np.vstack([np.hstack([eye, -upper]), np.hstack([-eye, lower]), choose])
    sides = np.concatenate([np.zeros(2 * n), [1.0]])
    low = np.concatenate([np.full(2 * n, -np.inf), [1.0]])
    inputs = list(pyomo_model.x.values())
    pyomo_model.union = AffineRows(sparse.csr_array(matrix), [*inputs, *members], low, sides)
    return members


def _best(
    model: SearchModel, milp: MILP, points: Array, parts: tuple[Part, ...], members: list[Any] | None
) -> Array | None:
    """The forward pass of best objective value as a column vector."""
    best: tuple[float, Array] | None = None
    for begin in range(0, len(points), 256):
        batch = points[begin : begin + 256]
        vectors = model.points(batch)
        if members is not None:
            inside = np.stack([part.holds(batch) for part in parts], axis=1)
            vectors[np.arange(len(batch))[:, None], model.compiled.columns(members)] = np.eye(len(parts))[
                inside.argmax(axis=1)
            ]
        values = vectors @ milp.objective
        at = int(values.argmax())
        if best is None or values[at] > best[0]:
            best = float(values[at]), vectors[at]
    return None if best is None else best[1]


SIDES = ("ink", "smooth", "halves")
"""Side constraints by choice: the sum of the inputs is given; neighbours differ little; both halves have one sum."""


def _optimise(network: Network, part: Part, bounds: Bounds, recipe: Recipe) -> tuple[MILP, Array | None, str]:
    import pyomo.environ as pyo

    from stablenet.milp.compiler import compile_model

    model = build_model(network, part, bounds=bounds, formulation=recipe.formulation)
    first, second = (3 + recipe.choice) % network.n_outputs, (8 + 3 * recipe.choice) % network.n_outputs
    model.objective = pyo.Objective(expr=model.output[first] - model.output[second], sense=pyo.maximize)
    n = network.n_inputs
    inputs = list(model.x.values())
    side = round(n**0.5)
    which = SIDES[recipe.choice]
    if which == "ink":
        total = np.floor(0.5 * float((part.lower + part.upper).sum()))
        model.ink = AffineRows(np.ones((1, n)), inputs, total - n / 64.0, total + n / 64.0)
    elif which == "smooth":
        pairs = [(i, i + step) for i in range(n) for step in (1, side) if i + step < n and (step > 1 or (i + 1) % side)]
        steps = np.zeros((len(pairs), n))
        steps[np.arange(len(pairs)), [a for a, _ in pairs]] = 1.0
        steps[np.arange(len(pairs)), [b for _, b in pairs]] = -1.0
        middle = steps @ (0.5 * (part.lower + part.upper))
        model.smooth = AffineRows(steps, inputs, middle - 0.125, middle + 0.125)
    else:
        halves = np.where(np.arange(n) % side < side // 2, 1.0, -1.0)[None, :]
        centre = float((halves @ (0.5 * (part.lower + part.upper)))[0])
        model.halves = AffineRows(halves, inputs, centre - n / 256.0, centre + n / 256.0)
    compiled = compile_model(model)
    meaning = f"output {first} minus output {second}, side constraint {which!r}"
    centre_point = 0.5 * (part.lower + part.upper)
    return compiled.milp, _forward_point(model, compiled, network, centre_point), meaning


def _forward_point(model: Any, compiled: Any, network: Network, x: Array) -> Array:
    """The column vector of a forward pass through an exact model with big-M binaries."""
    values = np.zeros(compiled.milp.n_columns)
    evaluation = network.evaluate(x[None, :])
    values[compiled.columns(list(model.x.values()))] = x
    values[compiled.columns(list(model.output.values()))] = evaluation.output[0]
    for k, pre in enumerate(evaluation.pre):
        block = model.layer[k]
        for name, found in (("pre", pre[0]), ("encoded", np.maximum(pre[0], 0)), ("is_active", (pre[0] > 0) * 1.0)):
            variables = getattr(block, name, None)
            if variables is not None:
                neurons = np.array(list(variables.keys()), dtype=np.intp)
                values[compiled.columns(list(variables.values()))] = found[neurons]
    return values
