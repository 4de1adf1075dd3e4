"""What `stablenet.equivalence.verify` answers: what is proven about a difference, and what was seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from stablenet.core import html
from stablenet.equivalence.counterexample import Found

Outcome = Literal["equal", "different", "bounded", "undecided"]


@dataclass(frozen=True, eq=False)
class Verification:
    """The answer: ``outcome`` for ``tolerance``; None asks for a range, which is ``bounded`` when its ends are close.

    ``bound`` is a proven upper bound on every |A_j(x) - B_j(x)| over the domain (infinite if none is known), rigorous
    or by a solver as ``rigorous`` says; ``found`` the certified point with the largest difference seen. ``by`` names
    what decided, ``neurons`` counts B's neurons as shared, related, alone; ``seconds`` by step; ``notes`` are failures
    on the way, such as a solver's, which proved nothing. With ``arithmetic`` "float32" all this speaks of any two
    float32 evaluations of A and B, else of the files' real functions; ``deviation`` is what rounding has in ``bound``,
    that of float32, or of an import that had to fold.
    """

    outcome: Outcome
    tolerance: float | None
    bound: float
    rigorous: bool
    found: Found | None
    by: str
    neurons: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    arithmetic: str = "real"
    deviation: float = 0.0

    def __repr__(self) -> str:
        proof = "rigorous" if self.rigorous else "by solver"
        seen = "" if self.found is None else f", seen {self.found.difference:.3g}"
        return f"<Verification: {self.outcome} within {self.tolerance:g}; |A - B| <= {self.bound:.3g} ({proof}){seen}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the answer and what it rests on."""
        rows = [
            ("outcome", self.outcome),
            ("tolerance", f"{self.tolerance:.6g}"),
            ("proven bound of |A - B|", f"{self.bound:.6g}"),
            ("rigorous", "yes" if self.rigorous else "no"),
            ("largest difference seen", "-" if self.found is None else f"{self.found.difference:.6g}"),
            ("decided by", self.by),
            *((f"neurons {name}", count) for name, count in self.neurons.items()),
            *((f"seconds for {name}", seconds) for name, seconds in self.seconds.items()),
        ]
        return html.table(("", ""), rows)

    @property
    def equal(self) -> bool:
        """Whether the networks are proven equal within the tolerance."""
        return self.outcome == "equal"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = self.found
        return {
            "outcome": self.outcome,
            "tolerance": self.tolerance,
            "bound": self.bound if np.isfinite(self.bound) else None,
            "rigorous": self.rigorous,
            "by": self.by,
            "arithmetic": self.arithmetic,
            "deviation": self.deviation if np.isfinite(self.deviation) else None,
            "neurons": self.neurons,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "counterexample": None
            if found is None
            else {"input": found.point.tolist(), "output": found.output, "difference": found.difference},
        }
