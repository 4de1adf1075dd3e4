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

MULTIPLIER_RATE = 0.1
"""Step size of multipliers, as a share of that of slopes and in units of the coefficients that they are added to."""


@dataclass(eq=False)
class Variables:
    """What descent moves, a row for each bound, all layers side by side: slopes (rows, undecided neurons) and, if
    wanted, multipliers (rows, alive neurons).
    """

    slopes: Single
    multipliers: Single | None

    def arrays(self) -> list[Single]:
        """All of them."""
        return [self.slopes] if self.multipliers is None else [self.slopes, self.multipliers]

    def copy(self) -> Variables:
        """Independent arrays."""
        return Variables(self.slopes.copy(), None if self.multipliers is None else self.multipliers.copy())

    def take(self, rows: npt.NDArray[np.bool_] | Index | slice) -> Variables:
        """Some of the rows."""
        return Variables(self.slopes[rows], None if self.multipliers is None else self.multipliers[rows])


class Adam:
    """Moments of the gradients. ``scales``, (rows, alive neurons), are the sizes of coefficients, for multipliers.

    The second moment is the plain mean of all squares: over the few steps that are made, Adam's differs by a per cent.
    """

    def __init__(self, variables: Variables, scales: Single | None) -> None:
        self.first = [np.zeros_like(a) for a in variables.arrays()]
        self.second = [np.zeros_like(a) for a in variables.arrays()]
        self.scales = scales
        self.count = 0

    def step(self, variables: Variables, gradient: list[Single]) -> None:
        """Move the variables, in place; the gradient's arrays are used up."""
        self.count += 1
        rate = RATE * DECAY ** (self.count - 1) * 0.1 / (1 - 0.9**self.count) * np.sqrt(self.count)
        for i, (array, slope) in enumerate(zip(variables.arrays(), gradient, strict=True)):
            first, second = self.first[i], self.second[i]
            np.multiply(first, np.float32(0.9), out=first)
            np.add(first, slope, out=first)
            move = np.multiply(slope, slope, out=slope)
            np.add(second, move, out=second)
            np.sqrt(second, out=move)
            np.add(move, np.float32(1e-20), out=move)
            np.divide(first, move, out=move)
            if i == 0 or self.scales is None:
                np.subtract(array, np.multiply(move, np.float32(rate), out=move), out=array)
                np.clip(array, 0, 1, out=array)
            else:
                np.multiply(move, self.scales, out=move)
                np.multiply(move, np.float32(-MULTIPLIER_RATE * rate), out=move)
                np.add(move, array, out=move)
                # A multiplier may not jump across zero, where its meaning changes.
                np.multiply(array, move, out=array)
                np.multiply(move, array >= 0, out=array)
