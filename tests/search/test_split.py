"""Cutting the input: ties by chance, and polytopes, whose rows every box feels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from oracle.auditor import audit
from small import dense

from stablenet import Box, Polytope, find_stable
from stablenet.bounds.polytope import narrowed
from stablenet.search import split


@pytest.mark.parametrize("ties", [0, split.TIES])
def test_a_few_ties_do_not_end_the_cutting(ties: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "TIE", 1e-3)
    monkeypatch.setattr(split, "TIES", ties)
    path = dense(tmp_path, sizes=(3, 12, 12, 2))
    report = find_stable(path, Box(-np.ones(3), np.ones(3)), search="split", falsify=False, threads=1)
    assert report.complete == (ties > 0)


def polytope(seed: int, n_rows: int, n: int = 4) -> Polytope:
    """Rows that cut off much of [-1, 1]^n but not 0."""
    rng = np.random.default_rng(seed)
    return Polytope(-np.ones(n), np.ones(n), rng.normal(size=(n_rows, n)), 0.4 * rng.random(n_rows))


@pytest.mark.parametrize(("seed", "n_rows"), [(0, 5), (1, 1), (2, 2)])
def test_polytopes_are_done_by_cutting(seed: int, n_rows: int, tmp_path: Path) -> None:
    path = dense(tmp_path, sizes=(4, 16, 16, 16, 2), seed=seed)
    domain = polytope(seed, n_rows)
    cut = find_stable(path, domain, search="split", threads=1, time_limit=300.0)
    assert cut.complete
    assert audit(cut.to_json(), path) == []
    assert all(neuron["verdict"] == "unstable" or is_rigorous(neuron) for neuron in cut.to_json()["neurons"])
    solved = find_stable(path, domain, search="network", threads=1)
    assert cut.verdicts() == solved.verdicts()


def is_rigorous(neuron: dict) -> bool:
    return any(neuron[side]["state"] == "refuted" and neuron[side]["rigorous"] for side in ("positive", "negative"))


@pytest.mark.parametrize("seed", range(20))
def test_narrowing_loses_no_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    part = polytope(seed, 3)
    centres, radii = rng.uniform(-1, 1, (50, 4)), 0.5 * rng.random((50, 1))
    lower, upper = np.maximum(centres - radii, -1.0), np.minimum(centres + radii, 1.0)
    low, high, empty = narrowed(lower, upper, part.a, part.b)
    assert empty.any()
    assert not empty.all()
    assert (low >= lower).all()
    assert (high <= upper).all()
    assert (low[~empty] > lower[~empty]).any() or (high[~empty] < upper[~empty]).any()
    points = lower + (upper - lower) * rng.random((200, 50, 4))
    inside = part.holds(points.reshape(-1, 4)).reshape(200, 50)
    assert not inside[:, empty].any()
    assert ((points >= low) & (points <= high)).all(axis=-1)[inside].all()


def test_narrowing_is_exact_to_the_last_bit_but_never_too_far() -> None:
    """The bound of one input by one row, against rational arithmetic."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        a, b = rng.normal(size=(1, 3)), np.array([0.1 * rng.normal()])
        low, high, empty = narrowed(np.full((1, 3), -1.0), np.ones((1, 3)), a, b)
        row, rhs = [Fraction(x) for x in a[0]], Fraction(b[0])
        least = -sum(map(abs, row))
        assert empty[0] == (least > rhs)
        if empty[0]:
            continue
        for j, weight in enumerate(row):
            reach = (rhs - least) / abs(weight)
            limit = min(Fraction(1), -1 + reach) if weight > 0 else max(Fraction(-1), 1 - reach)
            found = high[0, j] if weight > 0 else low[0, j]
            assert 0 <= (Fraction(found) - limit) * (1 if weight > 0 else -1) <= Fraction(1e-13) * (1 + reach)


@pytest.mark.parametrize(("seed", "n_rows"), [(6, 2), (16, 2), (22, 3)])
def test_inputs_that_only_rows_bind_are_cut_too(seed: int, n_rows: int, tmp_path: Path) -> None:
    """With several rows the multipliers found need not be the best, and hide what the gap depends on."""
    path = dense(tmp_path, sizes=(5, 12, 12, 2), seed=seed)
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n_rows, 5)), 0.3 * rng.random(n_rows)
    report = find_stable(path, Polytope(-np.ones(5), np.ones(5), a, b), search="split", threads=1, time_limit=300.0)
    assert report.complete


@pytest.mark.parametrize("seed", range(4))
def test_bounds_of_larger_boxes_serve_their_parts(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept or not, the verdicts are the same; and on each box what is kept holds at its points."""
    path = dense(tmp_path, sizes=(3, 14, 14, 10, 2), seed=seed)
    domain = Box(-np.ones(3), np.ones(3))
    rng = np.random.default_rng(seed)
    n_kept = 0
    bound = split.Splitter._bound

    def watched(self: split.Splitter, boxes: split.Boxes) -> split.Outcome:
        nonlocal n_kept
        outcome = bound(self, boxes)
        kept = outcome.boxes.known
        if kept is not None:
            n_kept += len(kept)
            points = boxes.lower + (boxes.upper - boxes.lower) * rng.random((20, *boxes.lower.shape))
            values = np.concatenate(self.problem.network.pre_activations(points.reshape(-1, 3)), axis=1)
            values = values.reshape(20, *kept[:, 0].shape)
            assert ((values >= kept[:, 0] - 1e-9) & (values <= kept[:, 1] + 1e-9)).all()
        return outcome

    monkeypatch.setattr(split.Splitter, "_bound", watched)
    kept = find_stable(path, domain, search="split", falsify=False, threads=1)
    assert n_kept > 10
    before = n_kept
    monkeypatch.setattr(split, "KNOWN_MEMORY", 0)
    forgotten = find_stable(path, domain, search="split", falsify=False, threads=1)
    assert n_kept == before
    assert kept.complete
    assert kept.verdicts() == forgotten.verdicts()
