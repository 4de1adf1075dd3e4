"""The steps that compression took: plain values that fit in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
