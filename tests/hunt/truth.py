"""What is true of a network on a domain, in rational numbers, and how it is kept in a case's JSON.

For small networks the values are the exact extrema (`oracle.exact`); for larger ones they are values that points of the
domain attain, which is enough to disprove a refutation or a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from oracle.exact import extrema
from oracle.plain import PlainMap, PlainNetwork, Region, Vector

Place = tuple[int, int]


@dataclass(frozen=True)
class Value:
    """A value that a pre-activation takes, and a point where it does."""

    value: Fraction
    at: Vector


@dataclass(frozen=True)
class Truth:
    """The network, the domain, and per neuron the least and the greatest value known."""

    network: PlainNetwork
    regions: tuple[Region, ...]
    low: list[list[Value]]
    high: list[list[Value]]
    exact: bool

    def contains(self, point: Sequence[Fraction | float]) -> bool:
        """Exact membership in the domain."""
        return any(region.contains(point) for region in self.regions)

    def to_json(self) -> dict[str, Any]:
        """Plain values; rational numbers as text."""
        return {
            "network": network_to_json(self.network),
            "regions": [region_to_json(region) for region in self.regions],
            "low": [[_value_to_json(v) for v in layer] for layer in self.low],
            "high": [[_value_to_json(v) for v in layer] for layer in self.high],
            "exact": self.exact,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Truth:
        """The inverse."""
        return cls(
            network_from_json(data["network"]),
            tuple(region_from_json(region) for region in data["regions"]),
            [[_value_from_json(v) for v in layer] for layer in data["low"]],
            [[_value_from_json(v) for v in layer] for layer in data["high"]],
            data["exact"],
        )


def enumerated(network: PlainNetwork, regions: Sequence[Region]) -> Truth:
    """The exact extrema; for small networks."""
    found = extrema(network, regions)
    return Truth(
        network,
        tuple(regions),
        [[Value(v, p) for v, p in zip(*both, strict=True)] for both in zip(found.minimum, found.argmin, strict=True)],
        [[Value(v, p) for v, p in zip(*both, strict=True)] for both in zip(found.maximum, found.argmax, strict=True)],
        True,
    )


class NoPointError(Exception):
    """None of the points at hand lies in a domain that is too thin for them."""


def attained(network: PlainNetwork, regions: Sequence[Region], points: Iterable[Sequence[float]]) -> Truth:
    """The extremes over points of the domain; those outside are skipped. Raises `NoPointError` where all are."""
    low: list[list[Value]] = []
    high: list[list[Value]] = []
    for point in points:
        if not any(region.contains(point) for region in regions):
            continue
        at = tuple(Fraction(v) for v in point)
        values = [[Value(g, at) for g in layer] for layer in network.forward(point)[0]]
        low = (
            values
            if not low
            else [[min(p, key=_key) for p in zip(*b, strict=True)] for b in zip(low, values, strict=True)]
        )
        high = (
            values
            if not high
            else [[max(p, key=_key) for p in zip(*b, strict=True)] for b in zip(high, values, strict=True)]
        )
    if not low:
        raise NoPointError("none of the points lies in the domain")
    return Truth(network, tuple(regions), low, high, False)


def _key(value: Value) -> Fraction:
    return value.value


def complaints(report: dict[str, Any], truth: Truth, *, forgiven: Fraction = Fraction(0)) -> Iterator[str]:
    """What a report says that is false: refutations, bounds, witnesses.

    ``forgiven`` is the share of a neuron's range within which a refutation that is not rigorous is let pass: 0, but for
    models that are solved without a margin.
    """
    passes = [truth.network.forward(point)[0] for point in report["witnesses"]]
    inside = [truth.contains(point) for point in report["witnesses"]]
    for number in (n for n, within in enumerate(inside) if not within):
        yield f"witness {number} is not in the domain: {report['witnesses'][number]}"
    for neuron in report["neurons"]:
        k, i = neuron["layer"], neuron["neuron"]
        low, high = truth.low[k][i], truth.high[k][i]
        for side, sign, extreme in (("positive", 1, high), ("negative", -1, low)):
            question = neuron[side]
            if question["state"] == "refuted" and sign * extreme.value > 0:
                slack = Fraction(0) if question["rigorous"] else forgiven * (high.value - low.value)
                if sign * extreme.value > slack:
                    proof = "rigorous" if question["rigorous"] else "not rigorous"
                    yield f"neuron {k}/{i} reaches {_short(extreme)}, {side} is refuted by {question['by']} ({proof})"
            if question["state"] == "witnessed":
                shown = passes[question["witness"]][k][i]
                if sign * shown <= 0:
                    yield f"neuron {k}/{i}: witness {question['witness']} does not show {side}: {_approximate(shown)}"
        if neuron["lower"] is not None and Fraction(neuron["lower"]) > low.value:
            yield f"neuron {k}/{i} reaches {_short(low)}, below its lower bound {neuron['lower']!r}"
        if neuron["upper"] is not None and Fraction(neuron["upper"]) < high.value:
            yield f"neuron {k}/{i} reaches {_short(high)}, above its upper bound {neuron['upper']!r}"


def _approximate(value: Fraction) -> str:
    try:
        near = float(value)
    except OverflowError:
        near = float("inf") if value > 0 else float("-inf")
    return repr(near) if near or not value else f"{value.numerator}/2**{value.denominator.bit_length() - 1}"


def _short(value: Value) -> str:
    return f"{_approximate(value.value)} at x = [{', '.join(_approximate(v) for v in value.at)}]"


def network_to_json(network: PlainNetwork) -> dict[str, Any]:
    """Plain values."""
    return {
        "n_inputs": network.n_inputs,
        "maps": [
            {
                "offset": [str(v) for v in m.offset],
                "terms": [[s, [[str(w) for w in row] for row in r]] for s, r in m.terms],
            }
            for m in (*network.layers, network.output)
        ],
    }


def network_from_json(data: dict[str, Any]) -> PlainNetwork:
    """The inverse of `network_to_json`."""
    maps = [
        PlainMap(
            tuple(Fraction(v) for v in m["offset"]),
            tuple((s, tuple(tuple(Fraction(w) for w in row) for row in rows)) for s, rows in m["terms"]),
        )
        for m in data["maps"]
    ]
    return PlainNetwork(data["n_inputs"], tuple(maps[:-1]), maps[-1])


def region_to_json(region: Region) -> dict[str, Any]:
    """Plain values: JSON keeps floats exactly."""
    return {"lower": region.lower, "upper": region.upper, "a": region.a, "b": region.b}


def region_from_json(data: dict[str, Any]) -> Region:
    """The inverse of `region_to_json`."""
    return Region(tuple(data["lower"]), tuple(data["upper"]), tuple(tuple(row) for row in data["a"]), tuple(data["b"]))


def _value_to_json(value: Value) -> list[Any]:
    return [str(value.value), [str(v) for v in value.at]]


def _value_from_json(data: list[Any]) -> Value:
    return Value(Fraction(data[0]), tuple(Fraction(v) for v in data[1]))
