"""The questions about a neuron, the states that they are in, and the verdicts that follow. There are two for each
neuron: can its pre-activation be positive on the domain, can it be negative.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Side = Literal[0, 1]

POSITIVE: Side = 0
NEGATIVE: Side = 1
SIDES: tuple[Side, Side] = (POSITIVE, NEGATIVE)
SIDE_NAMES = ("positive", "negative")


class State(enum.IntEnum):
    """State of a question."""

    OPEN = 0
    WITNESSED = 1
    REFUTED = 2


class Verdict(enum.IntEnum):
    """Verdict on a neuron."""

    UNKNOWN = 0
    UNSTABLE = 1
    STABLY_ACTIVE = 2
    STABLY_INACTIVE = 3


@dataclass(frozen=True)
class Contradiction:
    """A question that ``source`` refuted and a witness shows."""

    source: str
    layer: int
    neuron: int
    side: str
    witness: int

    def __str__(self) -> str:
        return (
            f"{self.source!r} refuted that neuron {self.neuron} of layer {self.layer} can be {self.side}, "
            f"and witness {self.witness} shows it; all that {self.source!r} refuted is revoked"
        )


def verdicts_of(states: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """`Verdict` of each neuron, (n,), from the `State` of each question, (2, n)."""
    positive, negative = states
    both = (positive == State.WITNESSED) & (negative == State.WITNESSED)
    verdict = np.where(both, Verdict.UNSTABLE, Verdict.UNKNOWN)
    verdict = np.where(negative == State.REFUTED, Verdict.STABLY_ACTIVE, verdict)
    return np.where(positive == State.REFUTED, Verdict.STABLY_INACTIVE, verdict).astype(np.int8)
