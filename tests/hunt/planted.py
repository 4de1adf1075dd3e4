"""Campaign: signs that only 1e-10 to 1e-5 of a neuron's range show, at scales of 1e-6 to 1e6."""

from __future__ import annotations

from typing import Any

from hunt.campaign import Random
from hunt.networks import Case, finished, planted
from hunt.verdicts import Verdicts, pick, random_options


class Planted(Verdicts):
    """Solvers must not refute what a point shows; searches get little help from bounds and falsifying."""

    name = "planted"
    title = "values of 1e-10 to 1e-5 of a neuron's range, badly scaled"
    share = 2.0
    command_line = 0.02

    def case(self, rng: Random) -> Case:
        large = rng.random() < 0.25
        layers, n, domain = planted(rng, wide=large)
        return finished(rng, "planted, large" if large else "planted", layers, n, domain, small=not large)

    def options(self, rng: Random) -> dict[str, Any]:
        options = random_options(rng)
        options["bounds"] = pick(
            rng, ["interval", "interval", "loose", "crown", "milp", "milp:50", "rolling", "progressive"]
        )
        options["search"] = pick(rng, ["network", "layer", "neuron", "auto"])
        options["falsify"] = rng.random() < 0.2
        options.pop("margin", None)
        return options
