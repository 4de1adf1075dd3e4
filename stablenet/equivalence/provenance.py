"""What a compressed file says about itself: the domain on which it is valid, the bound, where its neurons come from."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np

from stablenet.compression.steps import Provenance
from stablenet.core.errors import DomainError
from stablenet.core.network import Network
from stablenet.domain.regions import Box, Domain, Polytope
from stablenet.domain.spec import parse_domain
from stablenet.equivalence.joint import Pairing
from stablenet.equivalence.pairing import checked
from stablenet.report.report import domain_from_json

DOMAIN_KEY = "stablenet.domain"
SOURCE_KEY = "stablenet.source_sha256"
BOUND_KEY = "stablenet.bound"
RIGOROUS_KEY = "stablenet.rigorous_bound"
PROVENANCE_KEY = "stablenet.provenance"

BOX64 = "box64:"
LONG = 2000
"""Characters above which a box is packed."""


def domain_text(domain: Domain) -> str:
    """A domain as text: ``box:LO:HI`` where that says it; else JSON as in a report, or for a long box ``box64:`` and
    the lower, then the upper bounds as little-endian float64, zlib, base64.
    """
    if isinstance(domain, Box) and len(np.unique(domain.lower)) == 1 and len(np.unique(domain.upper)) == 1:
        return f"box:{float(domain.lower[0])!r}:{float(domain.upper[0])!r}"
    text = json.dumps(domain.to_json(), separators=(",", ":"))
    if isinstance(domain, Box) and len(text) > LONG:
        packed = zlib.compress(np.stack([domain.lower, domain.upper]).astype("<f8").tobytes(), 9)
        return BOX64 + base64.b64encode(packed).decode("ascii")
    return text


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
    except (ValueError, zlib.error) as error:
        raise DomainError(f"{network.file}: its property {DOMAIN_KEY!r} is no domain ({error})") from None
    return domain_from_json(data)


def domain_summary(domain: Domain) -> str:
    """A domain in a few words."""
    parts = domain.parts
    text = domain_text(parts[0])
    if not text.startswith("box:"):
        low, high = parts[0].lower, parts[0].upper
        free = int((high > low).sum())
        text = (
            f"a box of {len(low):,} inputs, {free:,} of them free, widths up to {float((high - low).max()):.4g}, "
            f"within [{float(low.min()):.4g}, {float(high.max()):.4g}]"
        )
    rows = len(parts[0].a) if isinstance(parts[0], Polytope) else 0
    cut = f", cut by {rows:,} inequalities" if rows else ""
    return f"{text}{cut}" if len(parts) == 1 else f"a union of {len(parts):,} parts, the first {text}{cut}"


def bound_of(network: Network) -> float | None:
    """The bound on the difference from its original that a file states, given that its report holds."""
    try:
        value = float(network.metadata[BOUND_KEY])
    except (KeyError, ValueError):
        return None
    return value if np.isfinite(value) and value >= 0 else None


def by_provenance(a: Network, b: Network) -> Pairing | None:
    """The pairing that B's file states, if it was made from A; None if it says nothing usable.

    It is a hint: what it says is never believed, only what can be proven along it counts.
    """
    if b.metadata.get(SOURCE_KEY) != a.sha256:
        return None
    try:
        stated: dict[str, Any] = json.loads(b.metadata[PROVENANCE_KEY])
        entries = [stated.get(layer.name, [-1, []]) for layer in b.layers]
        provenance = Provenance.from_json(entries)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        return None
    return checked(a, b, list(provenance.layers), list(provenance.neurons))
