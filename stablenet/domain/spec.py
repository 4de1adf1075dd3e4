"""Domains from the text of ``--domain``, and as text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from stablenet.core.errors import DomainError
from stablenet.domain.regions import Box, Domain, LinfBall, Polytope, domain_from_json
from stablenet.domain.samples import read_centre
from stablenet.domain.vnnlib import read_vnnlib

FORMS = "box:LO:HI, ball:CENTER.npy:EPS[:LO:HI], or a path to *.vnnlib or *.vnnlib.gz"
"""The grammar, for messages and help texts."""

_BALL = re.compile(r"(?P<path>.*\.npy):(?P<numbers>[^:]*(?::[^:]*:[^:]*)?)", re.DOTALL)


def read_domain(domain: Domain | str | Mapping[str, Any], n_inputs: int) -> Domain:
    """A domain of ``n_inputs`` inputs: as it is, from its specification, or from the form that reports have.

    Raises `DomainError` for what is none, or has another number of inputs.
    """
    if isinstance(domain, str):
        return parse_domain(domain, n_inputs)
    found = domain if isinstance(domain, Domain) else domain_from_json(domain)
    if found.n_inputs != n_inputs:
        raise DomainError(f"the domain has {found.n_inputs} inputs, the network {n_inputs}")
    return found


def parse_domain(spec: str, n_inputs: int) -> Domain:
    """The domain that a specification stands for, of dimension ``n_inputs``.

    ``box:LO:HI`` bounds every input alike; ``ball:CENTER.npy:EPS[:LO:HI]`` is an L-infinity ball around
    an array of any shape with ``n_inputs`` entries, in row-major order, clipped to ``[LO, HI]``; anything
    that ends in ``.vnnlib`` or ``.vnnlib.gz`` is read by `read_vnnlib`. Raises `DomainError`.
    """
    if spec.startswith("box:"):
        return _box(spec, n_inputs)
    if spec.startswith("ball:"):
        return _ball(spec, n_inputs)
    if not is_vnnlib(spec):
        raise DomainError(f"domain {spec!r} is not understood; expected {FORMS}")
    domain = read_vnnlib(spec)
    if domain.n_inputs != n_inputs:
        raise DomainError(f"{spec}: declares {domain.n_inputs} inputs, but the network has {n_inputs}")
    return domain


def is_vnnlib(spec: str) -> bool:
    """Whether a specification names a VNN-LIB file."""
    return not spec.startswith(("box:", "ball:")) and spec.lower().endswith((".vnnlib", ".vnnlib.gz"))


def domain_file(spec: str) -> Path | None:
    """The file that a specification names: a VNN-LIB file, or the centre of a ball; None where it names none."""
    if spec.startswith("box:"):
        return None
    if spec.startswith("ball:"):
        match = _BALL.fullmatch(spec.removeprefix("ball:"))
        return None if match is None else Path(match["path"])
    return Path(spec)


def _box(spec: str, n_inputs: int) -> Box:
    numbers = spec.split(":")[1:]
    if len(numbers) != 2:
        _refuse(spec, "two numbers are expected: box:LO:HI")
    low, high = (_number(spec, what, text) for what, text in zip(("LO", "HI"), numbers, strict=True))
    if low > high:
        _refuse(spec, f"LO {low} exceeds HI {high}; the domain is empty")
    return Box(np.full(n_inputs, low), np.full(n_inputs, high))


def _ball(spec: str, n_inputs: int) -> LinfBall:
    match = _BALL.fullmatch(spec.removeprefix("ball:"))
    if match is None:
        _refuse(spec, "expected ball:CENTER.npy:EPS or ball:CENTER.npy:EPS:LO:HI")
    texts = match["numbers"].split(":")
    numbers = [_number(spec, what, text) for what, text in zip(("EPS", "LO", "HI"), texts, strict=False)]
    if numbers[0] < 0:
        _refuse(spec, f"EPS {numbers[0]} is negative")
    if len(numbers) == 3 and numbers[1] > numbers[2]:
        _refuse(spec, f"LO {numbers[1]} exceeds HI {numbers[2]}; the domain is empty")
    center = read_centre(match["path"], n_inputs)
    try:
        return LinfBall(center, *numbers)
    except DomainError as error:
        raise DomainError(f"domain {spec!r}: {error}") from None


def _number(spec: str, what: str, text: str) -> float:
    try:
        value = float(text) if "_" not in text else float("nan")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        _refuse(spec, f"{what} is {text!r}; a finite number is expected")
    return value


def _refuse(spec: str, why: str) -> NoReturn:
    raise DomainError(f"domain {spec!r}: {why}")


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
