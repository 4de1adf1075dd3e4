"""The checker of equality against exact arithmetic: proofs are accepted, and none shows a tolerance that does not hold.

Whatever a file says, a tolerance that is accepted must be at least the exact largest difference.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tools import domain_of, plain
from oracle.exact import extrema
from oracle.networks import case
from oracle.plain import Region
from test_proofs import mutate, records, write

from stablenet import Box, load_onnx
from stablenet.check_two.equality import check_equality
from stablenet.check_two.paired import pair_most
from stablenet.compression.compress import compress
from stablenet.core.errors import InputError
from stablenet.core.network import AffineMap, Network, Term
from stablenet.core.proof_records import ProofError
from stablenet.domain.regions import Domain
from stablenet.equivalence.counterexample import difference_network
from stablenet.equivalence.verify import verify

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits_3x100.onnx"
SEEDS = [s for s in range(30) if case(s).family in ("dense", "dyadic", "integer", "inactive")]


def changed(network: Network, seed: int, size: float, scale: float = 1.0) -> Network:
    """A copy with relative changes of some coefficients, and each hidden layer scaled up and down again."""
    rng = np.random.default_rng(seed)

    def change(affine: AffineMap, own: float, of: list[float]) -> AffineMap:
        terms = []
        for term in affine.terms:
            matrix = term.matrix if isinstance(term.matrix, np.ndarray) else term.matrix.toarray()
            near = np.where(
                rng.random(matrix.shape) < 0.3, matrix * (1.0 + size * rng.normal(size=matrix.shape)), matrix
            )
            terms.append(Term(term.source, near * (own / of[term.source])))
        return AffineMap(affine.offset * own, tuple(terms))

    factors = [1.0]
    layers = []
    for layer in network.layers:
        factors.append(scale)
        layers.append(replace(layer, affine=change(layer.affine, scale, factors)))
    output = change(network.output, 1.0, factors)
    return replace(network, layers=tuple(layers), output=output, sha256="", content="")


def largest(a: Network, b: Network, domain: Domain) -> float:
    """The exact largest |B - A| over the domain."""
    regions = [Region(tuple(p.lower.tolist()), tuple(p.upper.tolist())) for p in domain.parts]
    found = extrema(plain(difference_network(a, b)), regions)
    return float(max(*(-v for v in found.minimum[-1]), *found.maximum[-1]))


def small(seed: int, folder: Path) -> tuple[Network, Domain]:
    made = case(seed)
    path = folder / f"{seed}.onnx"
    path.write_bytes(made.onnx)
    return load_onnx(path), domain_of(made)


def accepted(a: Network, b: Network, domain: Domain, proof: Path, tolerance: float) -> bool:
    try:
        return not check_equality(a, b, domain, proof, tolerance).problems
    except (ProofError, InputError):
        return False


@pytest.mark.parametrize(("seed", "scale"), [*((s, 1.0) for s in SEEDS[1:8]), *product(SEEDS[1:3], (4.0, 3.1))])
def test_proofs_are_accepted_for_what_they_prove_and_not_for_less(tmp_path, seed, scale):
    a, domain = small(seed, tmp_path)
    b = changed(a, seed, 0.02, scale)
    truth, proof = largest(a, b, domain), tmp_path / "proof"
    limit = (1.5 if scale == 1.0 else 20.0) * truth + 1e-9
    result = verify(a, b, domain, tolerance=limit, time_limit=60, proof=proof, steps=("bounds", "split"))
    assert result.equal
    assert result.proof is not None
    assert result.proof.file == str(proof)
    assert accepted(a, b, domain, proof, limit)
    assert accepted(b, a, domain, proof, limit)
    if truth > 1e-9:
        assert not accepted(a, b, domain, proof, 0.99 * truth)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{seed}.onnx", "proof"]


def mutations(folder: Path, seeds: list[int], count: int, seed: int) -> tuple[int, int]:
    """Change proofs at random, and try each with tolerances that hold and that do not: how many of both are taken."""
    rng = np.random.default_rng(seed)
    found = []
    for number in seeds:
        a, domain = small(number, folder)
        b = changed(a, number, 0.05, [1.0, 2.0, 0.7][number % 3])
        truth, proof = largest(a, b, domain), folder / f"proof {number}"
        limit = 10.0 * truth + 1e-9
        result = verify(a, b, domain, tolerance=limit, proof=proof, time_limit=5, steps=("bounds", "split"))
        if result.proof.file is not None and truth > 1e-9:
            found.append((a, b, domain, proof, truth, limit))
    assert found
    true = false = 0
    path = folder / "changed"
    for number in range(count):
        a, b, domain, proof, truth, limit = found[number % len(found)]
        content = records(proof)
        names = [mutate(rng, content) for _ in range(int(rng.integers(1, 4)))]
        if number % 4 == 0:
            pairing = content[1][1] if len(content) > 1 else {}
            if "partner" in pairing:
                pairing["partner"] = rng.permutation(pairing["partner"])
                names.append("other partners")
        write(path, content)
        below = truth * (1.0 - 1e-6) * float(rng.choice([1.0, 0.9, 0.0]))
        assert not accepted(a, b, domain, path, below), (number, names)
        false += 1
        true += accepted(a, b, domain, path, limit)
    return true, false


def test_no_changed_proof_shows_a_tolerance_that_does_not_hold(tmp_path):
    true, false = mutations(tmp_path, SEEDS[1:5], 12, 1)
    assert false == 12
    assert true > 0


@pytest.mark.long
def test_of_many_changes_none_shows_a_tolerance_that_does_not_hold(tmp_path):
    true, false = mutations(tmp_path, SEEDS[1:5], 30, 2026)
    assert false == 30
    assert true > 0


@pytest.mark.parametrize("seed", range(6))
def test_what_two_neurons_add_is_bounded(seed):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        scale = float(rng.choice([1.0, 0.5, 1.7]))
        low, high = np.sort(rng.normal(size=(2, 2)), axis=0)
        apart = np.sort(rng.normal(size=2) * float(rng.choice([0.1, 1.0])))
        grid = np.array(list(product(np.linspace(low[0], high[0], 121), np.linspace(low[1], high[1], 121))))
        distance = scale * grid[:, 0] - grid[:, 1]
        inside = grid[(distance >= apart[0]) & (distance <= apart[1])]
        if not len(inside):
            continue
        c, nu = rng.normal(size=2), rng.normal(size=2)
        values = (c * np.maximum(inside, 0.0) - nu * inside).sum(axis=1)
        ends: Any = [(np.array([x]), np.array([y])) for x, y in zip((*low, apart[0]), (*high, apart[1]), strict=True)]
        both: Any = [(np.array([x]), np.array([y])) for x, y in (c, nu)]
        bound = float(pair_most(*both, ends, np.array([scale]))[0])
        if any(
            not ((inside[:, 0] * one >= 0) & (inside[:, 1] * two >= 0)).any() for one, two in product((1, -1), repeat=2)
        ):
            assert values.max() <= bound
            continue  # bounds of a sign that the difference excludes may be larger
        step = float(np.abs(c).sum() + np.abs(nu).sum()) * float((high - low).max()) / 120
        assert values.max() <= bound
        assert bound <= values.max() + 4.0 * step / min(scale, 1.0)


def test_equal_networks_are_equal_within_nothing(tmp_path):
    a = load_onnx(DIGITS)
    domain = Box(np.full(a.n_inputs, 0.3), np.full(a.n_inputs, 0.7))
    result = verify(a, changed(a, 0, 0.0, 2.0), domain, tolerance=0.0, proof=tmp_path / "proof")
    assert (result.proof.file, result.bound) == (str(tmp_path / "proof"), 0.0)


def test_what_a_search_for_stable_neurons_proves_is_in_the_file(tmp_path):
    from stablenet.api import find_stable

    a = load_onnx(DIGITS)
    domain = Box(np.full(a.n_inputs, 0.3), np.full(a.n_inputs, 0.7))
    small_one = tmp_path / "small.onnx"
    found = compress(DIGITS, find_stable(a, domain, threads=1))
    small_one.write_bytes(found.data)
    b, proof = load_onnx(small_one), tmp_path / "proof"
    result = verify(a, b, domain, proof=proof)
    assert result.by == "stable"
    assert result.proof.file == str(proof)
    content = records(proof)
    start = next(i for i in range(1, len(content)) if content[i][0]["kind"] == "begin")
    write(proof, content[:start])  # without what is proven about A alone
    assert not accepted(a, b, domain, proof, result.tolerance)


def test_other_networks_domains_and_files_are_refused(tmp_path):
    a, domain = small(SEEDS[0], tmp_path)
    b = changed(a, 0, 0.02)
    proof = tmp_path / "proof"
    verify(a, b, domain, tolerance=10.0 * largest(a, b, domain) + 1e-6, proof=proof)
    with pytest.raises(ProofError, match="another network"):
        check_equality(a, changed(a, 1, 0.02), domain, proof, 1.0)
    other = Box(domain.parts[0].lower - 1.0, domain.parts[0].upper)
    with pytest.raises(ProofError, match="another domain"):
        check_equality(a, b, other, proof, 1.0)
    with pytest.raises(InputError, match="tolerance"):
        check_equality(a, b, domain, proof, float("nan"))


def test_without_a_proof_the_reason_is_told(tmp_path):
    a, domain = small(SEEDS[0], tmp_path)
    b = changed(a, 0, 0.05)
    proof = tmp_path / "proof"
    truth = largest(a, b, domain)
    different = verify(a, b, domain, tolerance=0.5 * truth, proof=proof)
    assert different.proof.file is None
    assert "nothing to prove" in different.proof.why
    solved = verify(a, b, domain, tolerance=1.01 * truth + 1e-6, proof=proof, steps=("milp",))
    assert solved.equal
    assert "rests on a solver" in solved.proof.why
    assert not proof.exists()
    with pytest.raises(InputError, match="real arithmetic"):
        verify(a, b, domain, tolerance=1.0, proof=proof, arithmetic="float32")
