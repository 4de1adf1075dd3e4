"""Small networks for the tests of models and formulations, and their bounds."""

from __future__ import annotations

import itertools

import numpy as np
from oracle.exact import Extrema, extrema
from oracle.networks import case
from oracle.plain import PlainMap, PlainNetwork
from scipy import sparse

from stablenet.bounds import run
from stablenet.core.bounds import Bounds
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, Domain, Part, Polytope, Union


def canonical(plain: PlainNetwork, *, csr: bool = False) -> Network:
    """The oracle's network in the package's form."""

    def affine(source: PlainMap) -> AffineMap:
        terms = []
        for index, rows in source.terms:
            matrix = np.array([[float(v) for v in row] for row in rows])
            terms.append(Term(index, sparse.csr_array(matrix) if csr else matrix))
        return AffineMap(np.array([float(v) for v in source.offset]), tuple(terms))

    layers = tuple(Layer(affine(p), name=f"relu{k}", shape=(len(p.offset),)) for k, p in enumerate(plain.layers))
    return Network(plain.n_inputs, layers, affine(plain.output))


def random_case(seed: int) -> tuple[Network, Domain, Extrema]:
    """A network of the oracle, its domain, and the exact extrema of pre-activations and outputs."""
    found = case(seed)
    parts = [
        Polytope(r.lower, r.upper, np.array(r.a, float), r.b) if r.a else Box(np.array(r.lower), np.array(r.upper))
        for r in found.regions
    ]
    network = canonical(found.plain, csr=seed % 2 == 1)
    return network, Union(parts), extrema(found.plain, found.regions, outputs=True)


def dense(seed: int, sizes: tuple[int, ...]) -> Network:
    """A dense network with Gaussian weights; the last size is the number of outputs."""
    rng = np.random.default_rng(seed)
    maps = [
        AffineMap(rng.normal(size=m) * 0.3, (Term(k, rng.normal(size=(m, n)) / np.sqrt(n)),))
        for k, (n, m) in enumerate(itertools.pairwise(sizes))
    ]
    layers = tuple(Layer(affine, f"relu{k}", (affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(sizes[0], layers, maps[-1])


def cube(n: int, radius: float = 1.0) -> Box:
    """The box of that radius around 0."""
    return Box(np.full(n, -radius), np.full(n, radius))


def crown(network: Network, part: Part) -> Bounds:
    """CROWN bounds."""
    return run("crown", network, part)
