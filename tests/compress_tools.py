"""What the tests of compression and equivalence share."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from oracle.networks import Case
from oracle.plain import PlainNetwork, plain_map

from stablenet.api import find_stable
from stablenet.core.network import AffineMap, Network
from stablenet.domain.regions import Box, Domain, Union
from stablenet.onnx_io.convert import dense_model
from stablenet.onnx_io.reader import load_onnx
from stablenet.report.report import Report


def plain(network: Network) -> PlainNetwork:
    """A network in rational numbers."""

    def convert(affine: AffineMap):
        terms = {}
        for term in affine.terms:
            dense = term.matrix if isinstance(term.matrix, np.ndarray) else term.matrix.toarray()
            terms.setdefault(term.source, []).append(dense.tolist())
        assert all(len(found) == 1 for found in terms.values())
        return plain_map(affine.offset.tolist(), [(source, found[0]) for source, found in sorted(terms.items())])

    return PlainNetwork(
        network.n_inputs, tuple(convert(layer.affine) for layer in network.layers), convert(network.output)
    )


def exact_difference(a: Network, b: Network, points: np.ndarray) -> list[list[Fraction]]:
    """``|B(x) - A(x)|`` of the real functions, by point and output."""
    first, second = plain(a), plain(b)
    return [
        [abs(y - x) for x, y in zip(first.forward(p)[1], second.forward(p)[1], strict=True)] for p in points.tolist()
    ]


def domain_of(case: Case) -> Domain:
    boxes = [Box(np.array(r.lower), np.array(r.upper)) for r in case.regions]
    return boxes[0] if len(boxes) == 1 else Union(boxes)


def points_of(domain: Domain, count: int, seed: int = 0) -> np.ndarray:
    """Random points and vertices of each part."""
    rng = np.random.default_rng(seed)
    pools = []
    for part in domain.parts:
        shape = (count, part.n_inputs)
        pools.append(part.clip(part.lower + (part.upper - part.lower) * rng.random(shape)))
        pools.append(np.where(rng.random(shape) < 0.5, part.lower, part.upper))
    return np.concatenate(pools)


def quick_report(network: Network, domain: Domain, **options: Any) -> Report:
    """A report by bounds and falsifying only."""
    return find_stable(network, domain, **{"search": "off", "threads": 1, **options})


def save_dense(folder: Path, weights: list[np.ndarray], offsets: list[np.ndarray], name: str = "net.onnx") -> Path:
    """A dense ReLU network; ``weights[k]`` is (n_out, n_in)."""
    path = folder / name
    path.write_bytes(dense_model([w.T for w in weights], offsets).SerializeToString())
    return path


def silenced(report: Report, keep: tuple[str, ...] = ()) -> Report:
    """A report in which all refutations are open again but those of the sides in ``keep``."""
    neurons = [
        {
            **neuron,
            **{
                side: {"state": "open"}
                for side in ("positive", "negative")
                if side not in keep and neuron[side]["state"] == "refuted"
            },
        }
        for neuron in report.data["neurons"]
    ]
    return Report({**report.data, "neurons": neurons})


def loaded(data: bytes, folder: Path, name: str = "small.onnx") -> Network:
    path = folder / name
    path.write_bytes(data)
    return load_onnx(path)
