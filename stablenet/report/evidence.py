"""What a report proves about each neuron: only refuted questions count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from stablenet.core.arrays import Array, Mask
from stablenet.core.errors import ReportError
from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.report.report import Report, check_belongs, domain_from_json


@dataclass(frozen=True, eq=False)
class Evidence:
    """Stable neurons by layer, each (n_k,): ``inactive`` (g <= 0), ``active`` (g >= 0, not inactive).

    ``rigorous`` says whether the verdict rests on a rigorous refutation; ``upper`` bounds g from above on the domain
    (infinite where the report has none).
    """

    domain: Domain
    inactive: tuple[Mask, ...]
    active: tuple[Mask, ...]
    rigorous: tuple[Mask, ...]
    upper: tuple[Array, ...]

    @classmethod
    def of(cls, report: Report, network: Network, domain: Domain | None = None) -> Self:
        """From a report; raises `ReportError` unless it is about this network, and this domain if one is given."""
        region = domain_from_json(report.data["domain"]) if domain is None else domain
        check_belongs(report, network, region)
        sizes = [layer.size for layer in network.layers]
        inactive, active, rigorous = ([np.zeros(n, bool) for n in sizes] for _ in range(3))
        upper = [np.full(n, np.inf) for n in sizes]
        seen = [np.zeros(n, bool) for n in sizes]
        try:
            for neuron in report.data["neurons"]:
                k, i = neuron["layer"], neuron["neuron"]
                _natural(k, i)
                seen[k][i] = True
                positive, negative = neuron["positive"], neuron["negative"]
                if positive["state"] == "refuted":
                    inactive[k][i], rigorous[k][i] = True, bool(positive["rigorous"])
                elif negative["state"] == "refuted":
                    active[k][i], rigorous[k][i] = True, bool(negative["rigorous"])
                if neuron["upper"] is not None:
                    upper[k][i] = float(neuron["upper"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ReportError(f"the report's neurons are malformed ({error!r})") from None
        if not all(mask.all() for mask in seen):
            raise ReportError("the report does not list every neuron of the network")
        return cls(region, tuple(inactive), tuple(active), tuple(rigorous), tuple(upper))

    @classmethod
    def nothing(cls, network: Network, domain: Domain) -> Self:
        """No evidence about any neuron."""
        none = tuple(np.zeros(layer.size, bool) for layer in network.layers)
        return cls(domain, none, none, none, tuple(np.full(layer.size, np.inf) for layer in network.layers))

    def merging_after(self, layer: int) -> Evidence:
        """The same without the stably active neurons of layers up to ``layer``, which are then left as they are."""
        active = tuple(mask if k > layer else np.zeros_like(mask) for k, mask in enumerate(self.active))
        return replace(self, active=active)

    def trusted(self) -> list[tuple[Array, Array]]:
        """Per layer the bounds (lower, upper) of g that follow: 0 on one side where stable, else infinite."""
        return [
            (np.where(active, 0.0, -np.inf), np.where(inactive, 0.0, np.inf))
            for active, inactive in zip(self.active, self.inactive, strict=True)
        ]

    @property
    def is_rigorous(self) -> bool:
        """Whether every stable neuron rests on rigorous evidence."""
        layers = zip(self.rigorous, self.active, self.inactive, strict=True)
        return all(bool((sure | ~(active | inactive)).all()) for sure, active, inactive in layers)

    def only_rigorous(self) -> Evidence:
        """The same without what is not rigorous."""
        return Evidence(
            self.domain,
            _both(self.inactive, self.rigorous),
            _both(self.active, self.rigorous),
            self.rigorous,
            self.upper,
        )


def witnesses_of(report: Report, network: Network) -> Array:
    """The report's finite witnesses, (n, n_inputs); raises `ReportError` where they are no points of the network."""
    try:
        points = np.array(report.data["witnesses"], np.float64).reshape(-1, network.n_inputs)
    except (KeyError, TypeError, ValueError):
        raise ReportError("the report's witnesses are not points of the network's inputs") from None
    return np.asarray(points[np.isfinite(points).all(axis=1)])


def _both(masks: Sequence[Mask], others: Sequence[Mask]) -> tuple[Mask, ...]:
    return tuple(a & b for a, b in zip(masks, others, strict=True))


def _natural(*numbers: object) -> None:
    """Negative indices would wrap around silently."""
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ValueError(f"{number!r} is no number of a layer or neuron")
