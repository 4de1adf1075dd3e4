"""Certificates of a ledger's refutations: claimed by one source, then proven by another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.questions import Side

CERTIFIER = "certify"
"""The source of certified refutations in a ledger; reports name the one that had claimed them."""

Codes = npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Certificate:
    """What proofs of some refutations cost: leaves and seconds of each, (m,)."""

    leaves: Index
    seconds: Array


class Certified:
    """Of each question on each part, (n_parts, 2, n): the code of the source that first claimed its refutation (-1: it
    has no certificate), and what the proof cost.
    """

    def __init__(self, n_parts: int, n_neurons: int) -> None:
        shape = (n_parts, 2, n_neurons)
        self.claimed = np.full(shape, -1, np.int16)
        self.leaves = np.zeros(shape, np.int64)
        self.seconds = np.zeros(shape)

    def enter(self, part: int, side: Side, neurons: Index, claimed: Codes, found: Certificate) -> None:
        """Certificates of questions of a part."""
        self.claimed[part, side, neurons] = claimed
        self.leaves[part, side, neurons] = found.leaves
        self.seconds[part, side, neurons] = found.seconds

    def forget(self, gone: Mask) -> None:
        """Take certificates back, (n_parts, 2, n)."""
        self.claimed[gone], self.leaves[gone], self.seconds[gone] = -1, 0, 0.0

    def to_json(self, side: int, index: int) -> dict[str, float] | None:
        """What the proof of a question cost on all parts; None without one."""
        if not (self.claimed[:, side, index] >= 0).any():
            return None
        leaves, seconds = self.leaves[:, side, index].sum(), self.seconds[:, side, index].sum()
        return {"leaves": int(leaves), "seconds": round(float(seconds), 6)}
