"""Channels of tensors that come and go together, and where the nodes of a graph leave them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stablenet.core.arrays import Array, Mask


@dataclass(eq=False)
class Space:
    """Channels that come and go together; ``pinned`` says why none may."""

    size: int
    parent: Space | None = None
    pinned: bool = False
    layers: set[int] = field(default_factory=set)

    @property
    def root(self) -> Space:
        """The space that this one was joined to."""
        return self if self.parent is None else self.parent.root


@dataclass(frozen=True, eq=False)
class Slot:
    """A tensor: its space, how many entries of axis 1 each channel has, and the constant values (NaN: none)."""

    space: Space
    block: int
    value: Array


@dataclass(frozen=True, eq=False)
class Exit:
    """Where a node leaves a space: a weight whose axis ``axis`` runs over the entries of ``slot``."""

    node: int
    slot: Slot
    weight: Array | None
    axis: int
    folds: bool
    out: Space | None


def may_go(leaving: Exit, gone_rows: Mask | None) -> Mask:
    """Which channels an exit can do without, (channels,); ``gone_rows`` are the channels that its own result loses."""
    value = leaving.slot.value
    allowed = (value == 0) | (~np.isnan(value) & leaving.folds)
    if leaving.weight is not None:
        weight = np.moveaxis(leaving.weight, leaving.axis, 0)
        if gone_rows is not None and weight.shape[1] == len(gone_rows):
            weight = weight[:, ~gone_rows]
        allowed |= ~weight.reshape(len(value), -1).any(axis=1)
    return np.asarray(allowed.reshape(-1, leaving.slot.block).all(axis=1))
