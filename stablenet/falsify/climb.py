"""Raising a function of the inputs from many points at once; what is found is for others to certify.

`climb` takes projected sign-gradient steps of shrinking size (Madry et al., *Towards Deep Learning Models Resistant to
Adversarial Attacks*, ICLR 2018), after a first full step to the vertex that the local slope names. `roam` needs no
slopes: it moves some inputs at random, ever less, which serves where the slope changes from one linear piece to the
next, as that of a difference of two networks does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stablenet.core.arrays import Array, Index
from stablenet.core.network import Matrix, Network, apply_transposed

STEPS = (1.0, 0.5, 0.5, 0.25, 0.25, 0.12, 0.12, 0.06, 0.06, 0.03, 0.03, 0.015, 0.015)
"""Step sizes, as shares of the box's widths; the first goes all the way to a vertex."""

LEAK = 0.05
"""Slope given to inactive neurons in gradients, so that a dead start still has a direction."""

LARGEST_MOVE, SHRINK, SMALLEST_MOVE = 0.1, 0.97, 1e-4
"""Of `roam`: deviation of a move as a share of the widths, at first, from round to round, and at least."""

Objective = Callable[[Array, Index], tuple[Array, Array]]
"""Values (batch,) and slopes in the inputs (batch, n_inputs) at points, (batch, n_inputs), of the given numbers."""


def climb(
    objective: Objective,
    points: Array,
    pull: Callable[[Array], Array],
    width: Array,
    *,
    steps: Sequence[float] = STEPS,
    enough: Array | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Array, Array]:
    """Where steps lead from each of the points, (batch, n_inputs), and the values there, (batch,).

    Args:
        objective: what is raised; it is told which of the points it is given.
        points: where to start.
        pull: brings points back into the domain.
        width: of the domain by input, the unit of the steps.
        steps: sizes of the steps.
        enough: points whose value exceeds theirs, (batch,), climb no further.
        stop: asked before each step.

    Returns:
        The points and their values; no value is below that of its start.
    """
    points = points.copy()
    values, slopes = objective(points, np.arange(len(points)))
    values = values.copy()
    active = np.arange(len(points))
    for step in steps:
        if enough is not None:
            left = ~(values[active] > enough[active])
            active, slopes = active[left], slopes[left]
        if not len(active) or stop():
            break
        moved = pull(points[active] + step * width * np.sign(slopes))
        new_values, new_slopes = objective(moved, active)
        better = new_values > values[active]
        values[active[better]] = new_values[better]
        points[active[better]] = moved[better]
        slopes = np.where(better[:, None], new_slopes, slopes)
    return points, values


def roam(
    value: Callable[[Array], Array],
    points: Array,
    pull: Callable[[Array], Array],
    width: Array,
    *,
    rounds: int,
    rng: np.random.Generator,
) -> Array:
    """Where random moves lead that raise ``value``, (batch,), from each of the points, (batch, n_inputs)."""
    points, values, size = points.copy(), value(points), LARGEST_MOVE
    for _ in range(rounds):
        chosen = rng.random(points.shape) < 0.5
        moved = pull(points + size * width * rng.standard_normal(points.shape) * chosen)
        new_values = value(moved)
        better = new_values > values
        points[better], values = moved[better], np.where(better, new_values, values)
        size = max(SHRINK * size, SMALLEST_MOVE)
    return points


def gradient(network: Network, layer: int, neurons: Index, signs: Array, points: Array) -> tuple[Array, Array]:
    """Values and input gradients of ``signs[i] * g[neurons[i]]`` of a layer at ``points[i]``: (b,), (b, n_inputs).

    The slope of a ReLU is 1 where it is active and `LEAK` elsewhere: a direction to search in, no derivative.
    """
    pre = network.pre_activations(points, layer + 1)
    slopes: dict[int, Array] = {}
    for term in network.layers[layer].affine.terms:
        _add(slopes, term.source, signs[:, None] * _rows(term.matrix, neurons))
    own = pre[layer][np.arange(len(neurons)), neurons]
    return signs * own, _to_inputs(network, pre, slopes, len(points))


def pull_back(network: Network, pre: Sequence[Array], weights: Array) -> Array:
    """Slopes in the inputs, (batch, n_inputs), of ``weights``, (batch, n_outputs), times the outputs, as `gradient`'s.

    ``pre`` are the pre-activations of all layers, (batch, n_k) each.
    """
    slopes: dict[int, Array] = {}
    for term in network.output.terms:
        _add(slopes, term.source, apply_transposed(term.matrix, weights))
    return _to_inputs(network, pre, slopes, len(weights))


def _to_inputs(network: Network, pre: Sequence[Array], slopes: dict[int, Array], batch: int) -> Array:
    """Slopes in the inputs of what has the given slopes in post-activations, by source; these are used up."""
    for source in range(len(pre), 0, -1):
        down = slopes.pop(source, None)
        if down is None:
            continue
        down = down * np.where(pre[source - 1] > 0, 1.0, LEAK)
        for term in network.layers[source - 1].affine.terms:
            _add(slopes, term.source, apply_transposed(term.matrix, down))
    return slopes.get(0, np.zeros((batch, network.n_inputs)))


def _rows(matrix: Matrix, rows: Index) -> Array:
    picked = matrix[rows]
    return picked if isinstance(picked, np.ndarray) else np.asarray(picked.toarray())


def _add(slopes: dict[int, Array], source: int, value: Array) -> None:
    slopes[source] = slopes[source] + value if source in slopes else value
