"""The free numbers of a backward pass, and steps of Adam on them (Kingma & Ba, arXiv 1412.6980), projected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Index, Single

RATE = 0.3
"""First step size for slopes; they live in [0, 1]."""

DECAY = 0.95
"""Factor of the step size from one step to the next."""


@dataclass(eq=False)
class Variables:
    """What the optimizer moves, per pushed layer: slopes (parts or 1, rows, open) and, if wanted, multipliers."""

    slopes: list[Single]
    multipliers: list[Single] | None

    def arrays(self) -> list[Single]:
        """All of them."""
        return self.slopes + (self.multipliers or [])

    def copy(self) -> Variables:
        """Independent arrays."""
        return Variables([a.copy() for a in self.slopes], self.multipliers and [a.copy() for a in self.multipliers])

    def take(self, rows: npt.NDArray[np.bool_] | Index | slice) -> Variables:
        """Some of the rows."""
        return Variables([a[:, rows] for a in self.slopes], self.multipliers and [a[:, rows] for a in self.multipliers])


class Adam:
    """First and second moments of the gradients. ``scales`` are the sizes of coefficients, for multipliers."""

    def __init__(self, variables: Variables, scales: list[Single]) -> None:
        self.first = [np.zeros_like(a) for a in variables.arrays()]
        self.second = [np.zeros_like(a) for a in variables.arrays()]
        self.scales = scales
        self.count = 0

    def step(self, variables: Variables, gradient: list[Single]) -> None:
        """Move the variables, in place."""
        self.count += 1
        rate = RATE * DECAY ** (self.count - 1)
        n = len(variables.slopes)
        for i, (array, slope) in enumerate(zip(variables.arrays(), gradient, strict=True)):
            self.first[i] += 0.1 * (slope - self.first[i])
            self.second[i] += 0.001 * (slope * slope - self.second[i])
            mean = self.first[i] / (1 - 0.9**self.count)
            move = rate * mean / (np.sqrt(self.second[i] / (1 - 0.999**self.count)) + 1e-20)
            if i < n:
                np.clip(array - move, 0, 1, out=array)
            else:
                moved = array - 0.1 * self.scales[i - n] * move
                # A multiplier may not jump across zero, where its meaning changes.
                np.copyto(array, np.where(moved * array < 0, 0, moved))
