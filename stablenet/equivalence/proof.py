"""Proof files of equality (docs/proofs.md): which neurons were paired, and into which boxes the domain was cut.

The checker bounds the difference by a method of its own, which may be weaker here and stronger there than what decided.
So a file is checked before it is kept: what is there proves what was found.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stablenet.bounds.certificates import NONE
from stablenet.check_two.equality import check_equality
from stablenet.core.arrays import Array, Index
from stablenet.core.deadline import Deadline
from stablenet.core.errors import StablenetError
from stablenet.core.network import Network
from stablenet.core.proofs import MAGIC, PartProof, ProofLog
from stablenet.domain.regions import Domain
from stablenet.equivalence.anytime import Halving
from stablenet.equivalence.joint import Pairing
from stablenet.equivalence.verification import Proof, Verification

SEARCH_SHARE = 0.6
"""Share of a time limit for deciding, where a proof is asked for; the rest is for writing and checking it."""

BATCH = 64
"""Boxes of a record, which the checker bounds together."""


class ProofOfEquality:
    """A proof file about two networks on a domain, and on the way there one about A alone, ``of_a``.

    As a context manager, it leaves no file but the one that was asked for.
    """

    def __init__(self, path: str | Path, a: Network, b: Network, domain: Domain, deadline: Deadline) -> None:
        self.path, self.a, self.b, self.domain, self.deadline = Path(path), a, b, domain, deadline
        self.of_a, self.part = Path(f"{path}.alone"), Path(f"{path}.part")

    def __enter__(self) -> Self:
        """Nothing is written yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is not needed any more."""
        for path in (self.of_a, self.part):
            path.unlink(missing_ok=True)

    def write(self, result: Verification, pairing: Pairing, halvings: Mapping[int, Sequence[Halving]]) -> Verification:
        """The answer, with what became of its proof: a file where the checker takes it, else why there is none.

        ``halvings`` tell how parts of the domain were cut. A file that is there already is replaced by a proof only.
        """
        ranged = result.tolerance is None and np.isfinite(result.bound)
        if result.outcome != "equal" and not ranged:
            return replace(result, proof=Proof(None, f"there is nothing to prove: {result.outcome}"))
        if not result.rigorous:
            return replace(result, proof=Proof(None, f"what decided ({result.by}) rests on a solver or on a report"))
        limit = result.bound if result.tolerance is None else result.tolerance
        began = time.monotonic()
        try:
            self._write(pairing, halvings, limit)
            checked = check_equality(self.a, self.b, self.domain, self.part, limit, over=lambda: self.deadline.over)
            problems = checked.problems
            if not problems:
                self.part.replace(self.path)
        except StablenetError as error:
            problems = [str(error)]
        seconds = {**result.seconds, "proof": round(time.monotonic() - began, 4)}
        if problems:
            why = f"what decided ({result.by}) cannot be written as a certificate yet: {problems[0]}"
            return replace(result, proof=Proof(None, why), seconds=seconds)
        return replace(result, proof=Proof(str(self.path), None), seconds=seconds)

    def _write(self, pairing: Pairing, halvings: Mapping[int, Sequence[Halving]], tolerance: float) -> None:
        a, b = self.a, self.b
        log = ProofLog(self.part, f"{a.identity} {b.identity}", self.domain.digest, len(self.domain.parts))
        try:
            arrays = _pairing(a, b, pairing)
            log.write("pairing", {"first": a.identity, "tolerance": tolerance}, arrays)
            n_before = a.n_neurons + 2 * b.n_neurons
            for number, part in enumerate(log.parts):
                _write_part(part, n_before, 2 * a.n_outputs, halvings.get(number, []))
        finally:
            log.close()
        if self.of_a.exists():
            with self.part.open("ab") as file:
                file.write(self.of_a.read_bytes()[len(MAGIC) :])


def _pairing(a: Network, b: Network, pairing: Pairing) -> dict[str, npt.NDArray[Any]]:
    """Which layers stand side by side, and the partner and the scale of each of B's neurons."""
    order: list[tuple[int, int]] = []
    done = 0
    for k, partner in enumerate(pairing.layers):
        due = max(pairing.layers[: k + 1])
        order += [(layer, NONE) for layer in range(done, due if partner == due and done <= due else due + 1)]
        if partner == due and done <= due:
            order.append((due, k))
        else:
            order.append((NONE, k))
        done = max(done, due + 1)
    order += [(layer, NONE) for layer in range(done, len(a.layers))]
    starts = np.cumsum([0, *(layer.size for layer in a.layers)])
    partners, scales = [np.zeros(0, np.intp)], [np.zeros(0)]
    for k, layer in enumerate(b.layers):
        beside = (pairing.layers[k], k) in order
        own = pairing.neurons[k]
        partners.append(
            np.where(own >= 0, starts[pairing.layers[k]] + own, NONE) if beside else np.full(layer.size, NONE)
        )
        scales.append(pairing.scale(k))
    return {
        "of_a": np.array([of_a for of_a, _ in order], "<u4"),
        "of_b": np.array([of_b for _, of_b in order], "<u4"),
        "partner": np.concatenate(partners).astype("<u4"),
        "scale": np.concatenate(scales).astype("<f8"),
    }


def _write_part(proof: PartProof, n_before: int, n_rows: int, halvings: Sequence[Halving]) -> None:
    """The boxes of one part: those that were cut, then the others, on each of which all rows are claimed."""
    questions = np.arange(n_before, n_before + n_rows, dtype="<u4")
    proof.write("split", {}, {"question": questions, "sign": np.ones(n_rows, "<i1")})
    leaves, n_boxes = np.ones(1, bool), 1
    for halving in halvings:
        n = len(halving.number)
        n_boxes = halving.first + 2 * n
        left = halving.first + 2 * np.arange(n)
        leaves = np.concatenate([leaves, np.ones(n_boxes - len(leaves), bool)])
        leaves[halving.number] = False
        cut = halving.axis, halving.at, left
        proof.write("boxes", {}, _boxes(halving.number, cut, n_rows, n_before))
    numbers = np.flatnonzero(leaves)
    for start in range(0, len(numbers), BATCH):
        some = numbers[start : start + BATCH]
        none = np.full(len(some), NONE)
        proof.write("boxes", {}, _boxes(some, (none, np.zeros(len(some)), none), n_rows, n_before))
    proof.write("cut", {"by": "difference"}, {"done": np.arange(n_rows, dtype="<u4")})


def _boxes(number: Index, cut: tuple[Index, Array, Index], n_rows: int, n_before: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a record; ``cut`` are inputs, places and numbers of lower halves. Boxes without are claimed."""
    axis, at, left = cut
    return {
        "box": number.astype("<u4"),
        "axis": axis.astype("<u4"),
        "at": at.astype("<f8"),
        "left": left.astype("<u4"),
        "right": np.where(left == NONE, NONE, left + 1).astype("<u4"),
        "refuted": np.packbits(np.repeat((axis == NONE)[:, None], n_rows, axis=1), axis=1).reshape(-1),
        "carried": np.packbits(np.ones(n_before + n_rows, bool)),
    }
