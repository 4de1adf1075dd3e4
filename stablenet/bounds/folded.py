"""How far a network that was folded with rounding may be from what its file computes."""

from __future__ import annotations

import numpy as np

from stablenet.bounds.interval import interval_layers, magnitude, post_bounds
from stablenet.core.arrays import Array
from stablenet.core.network import Network, apply
from stablenet.core.rounding import SAFETY, underflow
from stablenet.domain.regions import Domain


def folding_difference(network: Network, domain: Domain) -> list[float]:
    """Per layer, how much any pre-activation may differ on the domain from that of the file; infinite on overflow."""
    return [float(found.max(initial=0.0)) for found in neuron_folding(network, domain)]


def neuron_folding(network: Network, domain: Domain) -> list[Array]:
    """The same for each neuron, (n_k,) by layer."""
    return [found.max(axis=0) for found in _differences(network, domain)[:-1]]


def output_folding(network: Network, domain: Domain) -> Array:
    """How much each output may differ on the domain from that of the file, (n_outputs,); infinite on overflow."""
    if network.exact:
        return np.zeros(network.n_outputs)
    return np.asarray(_differences(network, domain)[-1].max(axis=0))


def _differences(network: Network, domain: Domain) -> list[Array]:
    """Bounds for the pre-activations of each layer, then for the outputs, each (parts, n).

    With e the bound on the error of every coefficient (`Network.import_error`) and d the differences of the sources h,
    ``|W| d + e (|h| + d + 1)`` summed over the sources bounds those of a layer.
    """
    lower, upper = (np.stack([getattr(part, side) for part in domain.parts]) for side in ("lower", "upper"))
    error = network.import_error
    most: list[Array] = [magnitude(lower, upper)]
    differences: list[Array] = [np.zeros_like(lower)]
    with np.errstate(over="ignore", invalid="ignore"):
        layers = interval_layers(network, lower, upper)
        for k, affine in enumerate((*(layer.affine for layer in network.layers), network.output)):
            total = np.full((len(lower), affine.size), error + underflow(affine.n_terms))
            for term in affine.terms:
                off = differences[term.source]
                spread = error * (most[term.source] + off).sum(axis=1, keepdims=True)
                total = total + apply(term.absolute, off) + spread
            differences.append(np.where(np.isnan(total), np.inf, SAFETY * total))
            if k < len(layers):
                most.append(magnitude(*post_bounds(*layers[k])))
    return differences[1:]
