"""What a compressed file says about itself: the domain on which it is valid, the bound, where its neurons come from."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import DomainError
from stablenet.core.network import Network
from stablenet.domain.regions import Box, Domain, Part
from stablenet.domain.spec import BOX64, parse_domain
from stablenet.equivalence.joint import Pairing
from stablenet.equivalence.pairing import checked
from stablenet.report.report import domain_from_json

DOMAIN_KEY = "stablenet.domain"
SOURCE_KEY = "stablenet.source_sha256"
BOUND_KEY = "stablenet.bound"
RIGOROUS_KEY = "stablenet.rigorous_bound"
PROVENANCE_KEY = "stablenet.provenance"


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


def domain_of(network: Network) -> Domain | None:
    """The domain that a file says it is valid on, None if it says nothing; raises `DomainError` for nonsense."""
    text = network.metadata.get(DOMAIN_KEY)
    if text is None:
        return None
    if text.startswith("box:"):
        return parse_domain(text, network.n_inputs)
    try:
        if text.startswith(BOX64):
            packed = base64.b64decode(text.removeprefix(BOX64), validate=True)
            size = 16 * network.n_inputs
            return Box(*np.frombuffer(zlib.decompressobj().decompress(packed, size), "<f8").reshape(2, -1))
        data = json.loads(text)
    except DomainError:
        raise
    except (ValueError, TypeError, RecursionError, zlib.error) as error:
        raise DomainError(f"{network.file}: its property {DOMAIN_KEY!r} is no domain ({error})") from None
    return domain_from_json(data)


def outside_stated_domain(network: Network, domain: Domain) -> str | None:
    """What to say where a file states a domain that another one is not known to lie in; else None.

    A part counts as inside if its box lies in the box of one stated part and keeps that part's rows.
    """
    try:
        stated = domain_of(network)
    except DomainError as error:
        return str(error)
    if stated is None or all(any(_inside(part, whole) for whole in stated.parts) for part in domain.parts):
        return None
    return (
        f"{network.file}: the file states a domain that it was made for, and the domain asked about is not known to "
        "lie in it: outside, its function may be another"
    )


def _inside(part: Part, whole: Part) -> bool:
    if part.n_inputs != whole.n_inputs or (part.lower < whole.lower).any() or (part.upper > whole.upper).any():
        return False
    if whole.a is None or whole.b is None:
        return True
    if part.a is not None and part.b is not None and part.a.shape == whole.a.shape:
        same = np.array_equal(part.a, whole.a) and bool((part.b <= whole.b).all())
        if same:
            return True
    most = np.maximum(whole.a, 0.0) @ part.upper + np.minimum(whole.a, 0.0) @ part.lower
    return bool((most <= whole.b).all())


def bound_of(network: Network) -> float | None:
    """The bound on the difference from its original that a file states, given that its report holds."""
    try:
        value = float(network.metadata[BOUND_KEY])
    except (KeyError, ValueError):
        return None
    return value if np.isfinite(value) and value >= 0 else None


def stated_tolerance(a: Network, b: Network, default: float) -> float:
    """The bound that B's file states about its difference from A, if it was made from A; else the default."""
    stated = bound_of(b) if b.metadata.get(SOURCE_KEY) == a.identity else None
    return default if stated is None else stated


def by_provenance(a: Network, b: Network) -> Pairing | None:
    """The pairing that B's file states, if it was made from A; None if it says nothing usable.

    It is a hint: what it says is never believed, only what can be proven along it counts.
    """
    if b.metadata.get(SOURCE_KEY) != a.identity:
        return None
    try:
        stated: dict[str, Any] = json.loads(b.metadata[PROVENANCE_KEY])
        entries = [stated.get(layer.name, [-1, []]) for layer in b.layers]
        provenance = Provenance.from_json(entries)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        return None
    return checked(a, b, list(provenance.layers), list(provenance.neurons))
