"""`verify_property`: one property of two networks on a domain, from files or objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.domain.spec import read_domain
from stablenet.equivalence.decide import STEPS, Case, Decision, decide
from stablenet.equivalence.specification import parse_property
from stablenet.find.prepare import read_network


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

    `stablenet.equivalence.specification` says what each property means, with ties.

    Args:
        a: a network, or an ONNX file.
        b: another with as many inputs and outputs.
        domain: a domain, or the text of ``--domain``.
        name: ``within`` (the difference stays within ``tolerance`` in ``norm``), ``top1`` (the same largest output),
            ``top1:MARGIN`` (wherever A's exceeds its others by more than that), ``order`` or ``order:MARGIN``.
        tolerance: of ``within``, in the units of the outputs.
        norm: of ``within``: ``linf`` (each output), ``l1`` or ``l2``.
        time_limit: seconds; None: until `stablenet.equivalence.decide.MOST_BOXES` boxes were bounded.
        seed: of sampled points and of the search for stable neurons.
        steps: those of `stablenet.equivalence.decide.STEPS` that are taken.

    Returns:
        The verdict (``holds``, ``violated``, ``undecided``), with an input that violates the property, if one was seen.

    Raises:
        InputError: networks, domain, property or steps do not fit.
    """
    first, second = (read_network(network) for network in (a, b))
    region = read_domain(domain, first.n_inputs)
    violation = parse_property(name, first.n_inputs, first.n_outputs, tolerance=tolerance, norm=norm)
    cases = [Case(part, violation) for part in region.parts]
    return decide(first, second, cases, time_limit=time_limit, seed=seed, steps=steps)
