"""Which neuron of one network corresponds to which of the other: by provenance, or by matching rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from stablenet.core.arrays import Array, Index
from stablenet.core.network import Network
from stablenet.equivalence.joint import Pairing
from stablenet.equivalence.scaling import factors

MOST_ASSIGNED = 2000
"""Larger layers are paired in order, not by assignment."""


def checked(a: Network, b: Network, layers: list[int], neurons: list[Index]) -> Pairing:
    """A pairing with all that would be unsound taken out: partners that do not exist, go back, or occur twice."""
    last, clean_layers, clean = -1, [], []
    taken: dict[int, set[int]] = {}
    for layer, found, own in zip(layers, neurons, b.layers, strict=True):
        usable = last <= layer < len(a.layers) and layer >= 0 and len(found) == own.size
        partner = np.full(own.size, -1)
        if usable:
            last = layer
            used = taken.setdefault(layer, set())
            for i, neuron in enumerate(found.tolist()):
                if 0 <= neuron < a.layers[layer].size and neuron not in used:
                    used.add(neuron)
                    partner[i] = neuron
        clean_layers.append(layer if usable and (partner >= 0).any() else -1)
        clean.append(partner)
    return Pairing(tuple(clean_layers), tuple(clean))


def by_matching(a: Network, b: Network, points: Array) -> Pairing:
    """Layers in order, those of equal size first; neurons by how alike their pre-activations are on points.

    ``points`` are inputs, (batch, n_inputs), inside the domain.
    """
    values_a, values_b = a.pre_activations(points), b.pre_activations(points)
    layers = _layers(a, b, values_a, values_b)
    neurons = [
        _neurons(values_a[k], values_b[j]) if k >= 0 else np.full(b.layers[j].size, -1) for j, k in enumerate(layers)
    ]
    return checked(a, b, layers, neurons)


def with_scales(pairing: Pairing, a: Network, b: Network, points: Array) -> Pairing:
    """The pairing with the multiples that fit the pre-activations on points, (batch, n_inputs)."""
    values_a, values_b = a.pre_activations(points), b.pre_activations(points)
    scales = []
    for partner, neurons, values in zip(pairing.layers, pairing.neurons, values_b, strict=True):
        scale, paired = np.ones(len(neurons)), np.flatnonzero(neurons >= 0)
        if len(paired):
            scale[paired] = factors(values_a[partner][:, neurons[paired]], values[:, paired])
        scales.append(scale)
    return replace(pairing, scales=tuple(scales))


def _layers(a: Network, b: Network, values_a: list[Array], values_b: list[Array]) -> list[int]:
    """Partners of B's layers that do not go back and agree best, by dynamic programming."""
    if len(a.layers) == len(b.layers):
        return list(range(len(b.layers)))
    likeness = np.array([[_alike(x, y) for x in values_a] for y in values_b]).reshape(len(values_b), len(values_a))
    best = np.zeros((len(values_b) + 1, len(values_a) + 1))
    for j in range(1, len(values_b) + 1):
        for k in range(1, len(values_a) + 1):
            best[j, k] = max(best[j - 1, k], best[j, k - 1], best[j - 1, k - 1] + likeness[j - 1, k - 1])
    partners, j, k = [-1] * len(values_b), len(values_b), len(values_a)
    while j and k:
        if best[j, k] == best[j - 1, k - 1] + likeness[j - 1, k - 1] and likeness[j - 1, k - 1] > 0:
            partners[j - 1], j, k = k - 1, j - 1, k - 1
        elif best[j, k] == best[j - 1, k]:
            j -= 1
        else:
            k -= 1
    return partners


def _alike(x: Array, y: Array) -> float:
    """How many columns of y stand in x."""
    known = {column.tobytes() for column in (np.round(_unit(x), 6) + 0.0).T}
    return float(sum(column.tobytes() in known for column in (np.round(_unit(y), 6) + 0.0).T))


def _unit(values: Array) -> Array:
    """Columns divided by their mean magnitude: a neuron and its positive multiples look alike."""
    size = np.abs(values).mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.nan_to_num(np.where(size > 0, values / size, 0.0), posinf=0.0, neginf=0.0)


def _neurons(x: Array, y: Array) -> Index:
    """For each column of y a column of x, at the least total distance; -1 where there are more columns than in x.

    Positive multiples are alike; among several the one of like size is taken.
    """
    if max(x.shape[1], y.shape[1]) > MOST_ASSIGNED or np.array_equal(x, y):
        partner = np.arange(y.shape[1])
        return np.where(partner < x.shape[1], partner, -1)
    distance = np.abs(_unit(y).T[:, None, :] - _unit(x).T[None, :, :]).mean(axis=2)
    size_x, size_y = np.abs(x).mean(axis=0), np.abs(y).mean(axis=0)
    largest = np.maximum(np.maximum(size_y[:, None], size_x), 1e-300)
    rows, columns = linear_sum_assignment(distance + 1e-4 * np.abs(size_y[:, None] - size_x) / largest)
    partner = np.full(y.shape[1], -1)
    close = distance[rows, columns] <= 0.5
    partner[rows[close]] = columns[close]
    return partner
