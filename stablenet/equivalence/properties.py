"""`verify_property`: one property of two networks on a domain, from files or objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.domain.spec import parse_domain
from stablenet.equivalence.decide import STEPS, Case, Decision, decide
from stablenet.equivalence.specification import parse_property
from stablenet.onnx_io.reader import load_onnx


def verify_property(
    a: Network | str | Path,
    b: Network | str | Path,
    domain: Domain | str,
    name: str = "within",
    *,
    tolerance: float = 1e-5,
    norm: str = "linf",
    time_limit: float | None = None,
    seed: int = 0,
    steps: Sequence[str] = STEPS,
) -> Decision:
    """Whether a property of two networks holds on a whole domain; proofs and counterexamples are rigorous.

    ``name`` is ``within`` (the difference stays within ``tolerance`` in ``norm``: ``linf``, ``l1`` or ``l2``), ``top1``
    (the same largest output), ``top1:MARGIN`` (wherever A's exceeds its others by more than that), ``order`` or
    ``order:MARGIN``; `stablenet.equivalence.specification` says what each means with ties. ``steps`` are those of
    `stablenet.equivalence.decide.decide`. Raises `InputError` where anything does not fit.
    """
    first = a if isinstance(a, Network) else load_onnx(a)
    second = b if isinstance(b, Network) else load_onnx(b)
    region = parse_domain(domain, first.n_inputs) if isinstance(domain, str) else domain
    violation = parse_property(name, first.n_inputs, first.n_outputs, tolerance=tolerance, norm=norm)
    cases = [Case(part, violation) for part in region.parts]
    return decide(first, second, cases, time_limit=time_limit, seed=seed, steps=steps)
