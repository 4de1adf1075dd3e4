"""Plans for the network of a file: which maps may be written anew, which operations are taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stablenet.compression.reduce import Operations, reduce
from stablenet.compression.steps import Step
from stablenet.compression.store_weights import Settled, Stored, settle
from stablenet.compression.working_network import Draft, WorkingMap
from stablenet.core.arrays import Array, Mask
from stablenet.core.network import Network, apply
from stablenet.onnx_io.channels import Channels
from stablenet.onnx_io.graph import Graph
from stablenet.report.evidence import Evidence

MOST_UNROLLED = 30_000_000
"""Coefficients, as dense matrices, of convolutional maps that are tried as Gemm nodes: 240 MB."""


def draft_of(network: Network, evidence: Evidence, free: tuple[bool, ...]) -> Draft:
    """The draft that compression starts from; ``free`` has an entry per map, the output last."""
    most = np.max([np.maximum(np.abs(p.lower), np.abs(p.upper)) for p in evidence.domain.parts], axis=0)
    blocks: list[WorkingMap] = []
    sizes: list[Array] = [most]
    for k, layer in enumerate(network.layers):
        reach = np.abs(layer.affine.offset)
        for term in layer.affine.terms:
            reach = reach + apply(term.absolute, sizes[term.source])
        top = np.maximum(np.minimum(evidence.upper[k], reach), 0.0)
        sizes.append(top)
        blocks.append(
            WorkingMap.of(
                layer.affine, active=evidence.active[k], inactive=evidence.inactive[k], most=top, free=free[k]
            )
        )
    none = np.zeros(network.n_outputs, bool)
    nothing = np.zeros(network.n_outputs)
    blocks.append(WorkingMap.of(network.output, active=none, inactive=none, most=nothing, free=free[-1]))
    return Draft(network, blocks, most)


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan for a file: the finished maps, the steps that led there, and the connections that are left."""

    graph: Graph
    settled: Settled
    steps: tuple[Step, ...]
    connections: int

    @property
    def merging(self) -> tuple[int, ...]:
        """Layers that active neurons were merged in, or folded, from the first."""
        return tuple(sorted({step.layer for step in self.steps if step.kind in ("dependent", "rank", "fold")}))


def plans(graph: Graph, evidence: Evidence, stored: Stored) -> tuple[Planned, Planned]:
    """The best plan for the network of a file, and that of the published operations alone.

    All operations are greedy, so an early one may spoil a better later one: where the published ones alone leave less,
    they come first, and the others after them.
    """
    masks = _channels(graph, evidence)
    paper = _plan(graph, evidence, masks, stored, ("paper",))
    best = _plan(graph, evidence, masks, stored, ("all",))
    if best.connections > paper.connections:
        best = _plan(graph, evidence, masks, stored, ("paper", "all"))
    return best, paper


def _channels(graph: Graph, evidence: Evidence) -> list[Mask]:
    """Neurons of layers that keep their nodes which go with whole channels, by layer."""
    structured = [k for k, free in enumerate(graph.free) if not free]
    masks = [np.zeros(layer.size, bool) for layer in graph.network.layers]
    if structured:
        for k, neurons in Channels(graph, structured, evidence.inactive).removable().items():
            masks[k][neurons] = True
    return masks


def _plan(
    graph: Graph, evidence: Evidence, masks: list[Mask], stored: Stored, rounds: tuple[Operations, ...]
) -> Planned:
    draft = draft_of(graph.network, evidence, graph.free)
    steps: list[Step] = []
    for operations in rounds:
        steps += reduce(draft, masks, operations)
        masks = [np.zeros(block.size, bool) for block in draft.blocks[:-1]]
    return Planned(graph, settle(draft, evidence.domain, stored), tuple(steps), draft.connections)


def unrolled(graph: Graph, evidence: Evidence, numbers: int | None) -> Iterator[Graph]:
    """Graphs in which convolutional maps, from one on, may be written as Gemm nodes too; the last map on comes first.

    ``numbers`` is how many the file holds so far: graphs that cannot take fewer are left out (None: the one with the
    most such maps, however large). Those whose dense matrices would be too large are left out as well.
    """
    structured = [k for k, free in enumerate(graph.free) if not free]
    tried: set[tuple[bool, ...]] = set()
    for first in sorted(structured, reverse=numbers is not None):
        other = graph.unrolled(first)
        if other.free in tried or other.free == graph.free:
            continue
        tried.add(other.free)
        new = [k for k, free in enumerate(other.free) if free]
        sizes = graph.network.source_sizes
        entries = sum(graph.map(k).size * sizes[t.source] for k in new for t in graph.map(k).terms)
        if entries > MOST_UNROLLED or (numbers is not None and _least(other, evidence, new) >= numbers):
            continue
        yield other
        if numbers is None:
            return


def _least(graph: Graph, evidence: Evidence, maps: list[int]) -> int:
    """How many numbers maps take as dense matrices at least: inactive neurons go, of free layers all active ones."""
    network = graph.network
    least = []
    for k, layer in enumerate(network.layers):
        kept = layer.size - int(evidence.inactive[k].sum())
        least.append(kept - int(evidence.active[k].sum()) if graph.free[k] else kept)
    total = 0
    for k in maps:
        rows = network.n_outputs if k == len(network.layers) else least[k]
        total += sum(rows * (network.n_inputs if t.source == 0 else least[t.source - 1]) for t in graph.map(k).terms)
    return total
