"""``progressive``: ever dearer methods, each only where the one before left a neuron undecided.

Layer by layer: intervals and CROWN, slopes optimised, linear programs, mixed-integer programs (the cascade of Badilla
et al., *Computational Tradeoffs of Optimization-Based Bound Tightening in ReLU Networks*, 2023, arXiv 2312.16699, with
optimised slopes as a stage more). The argument names the last stage.
"""

from __future__ import annotations

from typing import Self

from stablenet.backends.base import Capability
from stablenet.bounds.base import Context
from stablenet.bounds.crown_alpha import CrownAlpha
from stablenet.bounds.layerwise import LayerwiseState, Tightening
from stablenet.bounds.lp_tightening import LpTightening
from stablenet.bounds.milp_tightening import MilpTightening
from stablenet.core.errors import InputError

STAGES: dict[str, type[Tightening] | None] = {
    "crown": None,  # where every sweep starts
    "crown-alpha": CrownAlpha,
    "lp": LpTightening,
    "milp": MilpTightening,
}


class Progressive(Tightening):
    """A cascade of methods."""

    name = "progressive"
    title = "ever dearer methods where cheaper ones do not decide (argument: the last stage)"
    paper = "Badilla et al. 2023 (arXiv 2312.16699)"
    rigorous = False

    def __init__(self, last: str = "milp") -> None:
        names = list(STAGES)
        stages = [STAGES[name] for name in names[: names.index(last) + 1]]
        self.stages = [stage() for stage in stages if stage is not None]
        self.rigorous = all(stage.rigorous for stage in self.stages)
        self.requires = frozenset[Capability]().union(*(stage.requires for stage in self.stages))

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``progressive`` (up to ``milp``) or ``progressive:STAGE``."""
        if argument is None:
            return cls()
        if argument not in STAGES:
            raise InputError(f"bounds {cls.name!r} has the stages {', '.join(STAGES)}; got {argument!r}")
        return cls(argument)

    def check(self, context: Context) -> None:
        """What any stage needs."""
        for stage in self.stages:
            stage.check(context)

    def work(self, state: LayerwiseState) -> None:
        """See `Tightening`."""
        for stage in self.stages:
            if state.context.deadline.over or not len(state.undecided()):
                return
            stage.work(state)
