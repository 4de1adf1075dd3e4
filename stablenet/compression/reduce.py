"""The operations of compression: neurons are removed, merged, or folded.

Serra, Yu, Kumar & Ramalingam (NeurIPS 2021, arXiv 2102.07804), and beyond. The order: remove what is stably inactive
(its columns go too, which frees others); then, until nothing changes, replace neurons without inputs by their constant
value, remove those that no other map uses, from the output back, and from the last layer to the first fold a layer
that is all active, or merge its stably active neurons. Later layers first: merging them leaves fewer rows that read
the earlier ones, and so a smaller rank. With ``M`` the stacked columns of all consumers on the active neurons S and
``W`` the rows of S over all their sources, ``h_S = W h + b`` on the domain, and the consumers see ``M W h + M b``:
``rank(M W)`` neurons suffice. Each merge is taken only if it lowers the number of connections or, at the same number,
of neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stablenet.compression.rank import Basis, row_basis
from stablenet.compression.steps import Step
from stablenet.compression.working_network import Draft, WorkingMap, add, dense, take_columns
from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.rounding import gamma

Operations = Literal["paper", "all"]

PRECISION = 1e3
"""Stand-ins whose terms are larger than those they replace by more than this would cost precision: refused."""


def reduce(draft: Draft, removable: Sequence[Mask], operations: Operations = "all") -> list[Step]:
    """Compress a draft in place; returns the steps.

    ``removable[k]`` are the neurons of a layer that is not free that may go, (n_k,): whole channels. With
    ``operations`` "paper", inactive neurons are removed and dependent rows merged, as published, and no more.
    """
    steps: list[Step] = []
    for layer, mask in enumerate(removable):
        block = draft.blocks[layer]
        gone = block.inactive if block.free else mask
        _drop(draft, steps, layer, gone, "inactive")
    while True:
        before = len(steps)
        for layer in range(draft.n_layers):
            if draft.blocks[layer].free:
                _constants(draft, steps, layer)
        if operations == "all":
            for layer in reversed(range(draft.n_layers)):
                if draft.blocks[layer].free:
                    _drop(draft, steps, layer, draft.unread(layer), "unread")
        for layer in reversed(range(draft.n_layers)):
            block = draft.blocks[layer]
            if block.free and block.active.any():
                if operations == "all" and _fold(draft, steps, layer):
                    continue
                _merge(draft, steps, layer, operations)
        if len(steps) == before:
            return steps


def _drop(
    draft: Draft, steps: list[Step], layer: int, gone: Mask, kind: Literal["inactive", "unread", "constant"]
) -> None:
    if not gone.any():
        return
    block = draft.blocks[layer]
    neurons = tuple(block.neurons[gone].tolist())
    saved = draft.remove(layer, gone)
    steps.append(Step(kind, layer, neurons, 0, saved))


def _constants(draft: Draft, steps: list[Step], layer: int) -> None:
    """Neurons without inputs: their value is a constant, which is added to the offsets of their consumers.

    A number other than 0 may round in their offsets, as merging does: that takes a neuron known to be active.
    """
    block = draft.blocks[layer]
    constant = np.ones(block.size, bool)
    for matrix in block.terms.values():
        constant &= ~np.asarray((dense(matrix) != 0).any(axis=1))
    constant &= block.active | (block.offset <= 0)
    if not constant.any():
        return
    value = np.where(block.stand_in, block.offset, np.maximum(block.offset, 0.0))
    value = np.where(constant, value, 0.0)
    for consumer in draft.consumers(layer) if value.any() else ():
        consumer.offset = consumer.offset + dense(consumer.terms[layer + 1]) @ value
        consumer.changed = True
    _drop(draft, steps, layer, constant, "constant")


@dataclass(frozen=True, eq=False)
class _Effect:
    """The active neurons of a layer: their rows W and offsets, and the columns M of all consumers on them.

    ``product`` is M W over the stacked sources, ``noise`` bounds the rounding of its entries, row by row.
    """

    active: Index
    sources: tuple[int, ...]
    scale: Array
    rows: Array
    offset: Array
    rows_noise: Array
    columns: Array
    product: Array
    noise: Array

    @classmethod
    def of(cls, draft: Draft, layer: int) -> _Effect:
        block = draft.blocks[layer]
        active = np.flatnonzero(block.active)
        sources = tuple(sorted(block.terms))
        scale = np.concatenate([draft.magnitude(s) for s in sources] or [np.zeros(0)])
        rows = block.stacked(active, sources) if sources else np.zeros((len(active), 0))
        taken = [dense(take_columns(c.terms[layer + 1], active)) for c in draft.consumers(layer)]
        columns = np.concatenate(taken) if taken else np.zeros((0, len(active)))
        product, size = columns @ rows, np.abs(columns) @ np.abs(rows)
        rounding = gamma(len(active) + 2) * size
        # Entries below their rounding error are zeros, which must not become connections.
        product = np.where(np.abs(product) <= 2.0 * rounding, 0.0, product)
        noise = rounding @ scale + np.abs(columns) @ block.noise[active]
        return cls(active, sources, scale, rows, block.offset[active], block.noise[active], columns, product, noise)


def _fold(draft: Draft, steps: list[Step], layer: int) -> bool:
    """Replace a layer that is all active by the product of the maps, if that has fewer connections."""
    block = draft.blocks[layer]
    if not block.active.all():
        return False
    effect = _Effect.of(draft, layer)
    before = draft.connections
    parts = _split(effect.product, draft.consumers(layer))
    after = before - block.connections
    changes = []
    for consumer, rows in parts:
        terms = {s: m for s, m in consumer.terms.items() if s != layer + 1}
        for source, part in _by_source(draft, effect.sources, rows):
            terms[source] = add(terms[source], part) if source in terms else part
        changes.append(terms)
        after += sum(int(np.count_nonzero(dense(m))) for m in terms.values()) - consumer.connections
    if after > before:
        return False
    shift, start = effect.columns @ effect.offset, 0
    for (consumer, rows), terms in zip(parts, changes, strict=True):
        chosen = slice(start, start + len(rows))
        start += len(rows)
        consumer.terms = terms
        consumer.offset = consumer.offset + shift[chosen]
        consumer.noise = consumer.noise + effect.noise[chosen]
        consumer.changed = True
    neurons = tuple(block.neurons.tolist())
    block.keep_rows(np.zeros(block.size, bool))
    block.terms = {}
    steps.append(Step("fold", layer, neurons, 0, before - draft.connections))
    return True


def _split(rows: Array, consumers: Sequence[WorkingMap]) -> list[tuple[WorkingMap, Array]]:
    """Stacked rows given back to the consumers that they belong to."""
    ends = np.cumsum([consumer.size for consumer in consumers])[:-1]
    return list(zip(consumers, np.split(rows, ends), strict=True)) if consumers else []


def _by_source(draft: Draft, sources: Sequence[int], rows: Array) -> list[tuple[int, Array]]:
    """Rows over stacked sources as one matrix per source; those that are all zero are left out."""
    ends = np.cumsum([len(draft.magnitude(s)) for s in sources])[:-1]
    parts = np.split(rows, ends, axis=1) if sources else []
    return [(s, np.ascontiguousarray(part)) for s, part in zip(sources, parts, strict=True) if part.any()]


@dataclass(frozen=True, eq=False)
class _Merge:
    """A proposal: rows that take the place of the active ones, the consumers' columns on them, and their shift."""

    kind: Literal["dependent", "rank"]
    basis: Basis
    rows: Array
    columns: Array
    shift: Array

    @property
    def cost(self) -> tuple[int, int]:
        """Connections, then neurons."""
        return int(np.count_nonzero(self.rows) + np.count_nonzero(self.columns)), len(self.rows)


def _merge(draft: Draft, steps: list[Step], layer: int, operations: Operations) -> None:
    """Merge the active neurons of a layer by the cheaper of both ways, if one makes the network smaller."""
    effect = _Effect.of(draft, layer)
    block = draft.blocks[layer]
    now = int(np.count_nonzero(effect.rows) + np.count_nonzero(effect.columns)), len(effect.active)
    proposals = [_dependent(effect)]
    if operations == "all":
        proposals.append(_ranked(effect))
    proposals = [p for p in proposals if p.basis.sound and p.cost < now and len(p.rows) < len(effect.active)]
    proposals = [p for p in proposals if _precise(effect, p)]
    if not proposals:
        return
    best = min(proposals, key=lambda proposal: proposal.cost)
    before = draft.connections
    neurons = block.neurons[effect.active]
    _replace(draft, layer, effect, best)
    kept = set(best.basis.rows.tolist()) if best.kind == "dependent" else set()
    gone = tuple(n for i, n in enumerate(neurons.tolist()) if i not in kept)
    saved = before - draft.connections
    steps.append(Step(best.kind, layer, gone, len(best.rows), saved, best.basis.condition, best.basis.growth))


def _dependent(effect: _Effect) -> _Merge:
    """The paper's merge: rows that are combinations of others of the layer are expressed in those."""
    basis = row_basis(effect.rows, effect.scale, effect.rows_noise)
    columns = effect.columns @ basis.coefficients
    rest = effect.offset - basis.coefficients @ effect.offset[basis.rows]
    rest[basis.rows] = 0.0
    return _Merge("dependent", basis, effect.rows[basis.rows], columns, effect.columns @ rest)


def _ranked(effect: _Effect) -> _Merge:
    """Stand-ins that span all that the consumers use: rows of M W that span the others."""
    basis = row_basis(effect.product, effect.scale, effect.noise)
    return _Merge("rank", basis, effect.product[basis.rows], basis.coefficients, effect.columns @ effect.offset)


def _precise(effect: _Effect, merge: _Merge) -> bool:
    """Whether the terms of the new sums, the shift of a stand-in included, stay near the size of the old ones."""
    old = np.abs(effect.columns) @ (np.abs(effect.rows) @ effect.scale + np.abs(effect.offset))
    new = np.abs(merge.columns) @ (2.0 * (np.abs(merge.rows) @ effect.scale)) + np.abs(merge.shift)
    return bool((new <= PRECISION * old + 4.0 * effect.noise).all())


def _replace(draft: Draft, layer: int, effect: _Effect, merge: _Merge) -> None:
    """Give the consumers their new columns and shifts, and the layer its new rows."""
    block, consumers, start = draft.blocks[layer], draft.consumers(layer), 0
    n_new = len(merge.rows)
    for consumer, columns in _split(merge.columns, consumers):
        chosen = slice(start, start + len(columns))
        start += len(columns)
        matrix = np.hstack([dense(consumer.terms[layer + 1]), columns])
        matrix[:, effect.active] = 0.0
        consumer.terms[layer + 1] = matrix
        consumer.offset = consumer.offset + merge.shift[chosen]
        consumer.noise = consumer.noise + effect.noise[chosen]
        consumer.changed = True
    if merge.kind == "dependent":
        base = effect.active[merge.basis.rows]
        neurons, offset, noise, most = (x[base] for x in (block.neurons, block.offset, block.noise, block.most))
    else:
        neurons, offset = np.full(n_new, -1), np.zeros(n_new)
        noise, most = effect.noise[merge.basis.rows], 2.0 * (np.abs(merge.rows) @ effect.scale)
        block.changed = True
    parts = dict(_by_source(draft, effect.sources, merge.rows))
    for source in effect.sources:
        added = parts.get(source, np.zeros((n_new, len(draft.magnitude(source)))))
        block.terms[source] = np.vstack([dense(block.terms[source]), added])
    gone = np.zeros(block.size + n_new, bool)
    gone[effect.active] = True
    for name, value in (("offset", offset), ("neurons", neurons), ("noise", noise), ("most", most)):
        setattr(block, name, np.concatenate([getattr(block, name), value]))
    block.active = np.concatenate([block.active, np.ones(n_new, bool)])
    block.inactive = np.zeros(block.size, bool)
    draft.remove(layer, gone)
    draft.order(layer)
