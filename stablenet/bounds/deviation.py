"""How far outputs may be from the real ones, over a whole domain: in float32, or since the import rounded."""

from __future__ import annotations

import numpy as np

from stablenet.bounds.crown_layers import crown_layers
from stablenet.bounds.folded import output_folding
from stablenet.bounds.interval import magnitude, post_bounds
from stablenet.core.arrays import Array
from stablenet.core.network import AffineMap, Network, apply
from stablenet.core.rounding import SAFETY, underflow
from stablenet.domain.regions import Domain


def output_deviation(network: Network, domain: Domain) -> Array:
    """A bound on |f32(x) - f(x)| for each output, every point x of the domain and every float32 evaluation,
    (n_outputs,).

    What comes from the layers before is passed on, ``|W| e``, and each map's own `AffineMap.deviation` added; a ReLU
    does not enlarge it, and gives 0 where the neuron is stably inactive (Higham, *Accuracy and Stability of Numerical
    Algorithms*, 3.1). All 0 for a network of real arithmetic; infinite where float32 may overflow.
    """
    if network.arithmetic == "real":
        return np.zeros(network.n_outputs)
    low, high = (np.stack([getattr(part, side) for part in domain.parts]) for side in ("lower", "upper"))
    errors, most = [np.zeros_like(low)], [magnitude(low, high)]
    for layer, bounds in zip(network.layers, crown_layers(network, low, high), strict=True):
        own = _passed_on(layer.affine, errors, most)
        top = post_bounds(*bounds)[1]
        # Both values lie between 0 and the bound, which holds for all evaluations.
        errors.append(np.fmin(own, top))
        most.append(top)
    return np.asarray(_passed_on(network.output, errors, most).max(axis=0))


def difference_deviation(a: Network, b: Network, domain: Domain) -> tuple[Array, Array]:
    """How far the difference of two networks' outputs may be from that of their files, each (n_outputs,).

    The first is what the rounding of both imports makes: 0 for one file, which rounds alike, and for networks of
    float32 arithmetic, whose errors cover it. The second adds what any two float32 evaluations make.
    """
    folded = np.zeros(a.n_outputs)
    if a.identity != b.identity and a.arithmetic == "real":
        folded = output_folding(a, domain) + output_folding(b, domain)
    return folded, folded + output_deviation(a, domain) + output_deviation(b, domain)


def _passed_on(affine: AffineMap, errors: list[Array], most: list[Array]) -> Array:
    own = affine.deviation(most)
    total = np.zeros((len(most[0]), affine.size)) if own is None else own
    with np.errstate(over="ignore", invalid="ignore"):
        for term in affine.terms:
            passed = apply(term.absolute, errors[term.source])
            total = total + np.where(passed > 0, SAFETY * passed + underflow(affine.n_terms), passed)
    return np.where(np.isnan(total), np.inf, SAFETY * total)
