"""What compression did: steps, and where each neuron of the result comes from. Plain values that fit in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["inactive", "constant", "unread", "dependent", "rank", "fold"]

TITLES: Mapping[str, str] = {
    "inactive": "stably inactive, removed",
    "constant": "reads nothing, replaced by the number that it gives",
    "unread": "not read by anything, removed",
    "dependent": "stably active, row dependent on others of the layer, merged",
    "rank": "stably active, merged into as few as their joint effect needs",
    "fold": "layer wholly active, folded into what reads it",
}


@dataclass(frozen=True)
class Step:
    """One step on a layer (numbered as in the network that was given).

    ``neurons`` are the neurons that it took away, -1 for a stand-in of an earlier step; ``kept`` says how many of
    those that it looked at remain, as they were ("dependent") or as stand-ins ("rank"). ``connections`` is by how
    much the number of nonzero coefficients fell. ``condition`` is that of the chosen basis, rows scaled to one
    length, ``growth`` the largest coefficient that expresses another row in it.
    """

    kind: Kind
    layer: int
    neurons: tuple[int, ...]
    kept: int
    connections: int
    condition: float | None = None
    growth: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "neurons": list(self.neurons)}


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where the neurons of a network come from in another.

    Layer k of the network stems from layer ``layers[k]`` of the other, its neuron i from neuron ``neurons[k][i]``
    there, or from none in particular (-1, a stand-in).
    """

    layers: tuple[int, ...]
    neurons: tuple[npt.NDArray[np.intp], ...]

    def to_json(self) -> list[list[Any]]:
        """``[[layer, [[first, last], …, -1, …]], …]``: runs of consecutive neurons, -1 for each stand-in."""
        return [[layer, _runs(found)] for layer, found in zip(self.layers, self.neurons, strict=True)]

    @classmethod
    def from_json(cls, data: Sequence[Sequence[Any]]) -> Provenance:
        """The inverse; raises TypeError or ValueError for anything else."""
        layers, neurons = [], []
        for layer, runs in data:
            layers.append(int(layer))
            parts = [np.array([-1]) if run == -1 else np.arange(int(run[0]), int(run[1]) + 1) for run in runs]
            neurons.append(np.concatenate([np.zeros(0, np.intp), *parts]).astype(np.intp))
        return cls(tuple(layers), tuple(neurons))


def _runs(neurons: npt.NDArray[np.intp]) -> list[Any]:
    if not len(neurons):
        return []
    breaks = np.flatnonzero((np.diff(neurons) != 1) | (neurons[:-1] < 0)) + 1
    return [-1 if run[0] < 0 else [int(run[0]), int(run[-1])] for run in np.split(neurons, breaks)]
