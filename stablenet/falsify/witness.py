"""From points to witnesses: certified forward passes close the questions that they show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array, Mask
from stablenet.core.ledger import Ledger
from stablenet.core.network import Evaluation, Network
from stablenet.core.questions import NEGATIVE, POSITIVE
from stablenet.domain.regions import Domain

Signs = npt.NDArray[np.int8]

Sharpen: TypeAlias = "Callable[[Array, int], list[tuple[Array, Array]]]"

CHUNK_BYTES = 64 * 2**20

SHARPENED = 32
"""Points whose signs are looked at more closely at a time."""

SHARPENED_VALUES = 100_000
"""Values that are looked at more closely at a time; four times as many for all the points that are offered together."""

PROMISING = 0.5
"""A question is looked at more closely again at a point whose value, in units of its error, is by so much better."""


class Witnesser:
    """Checks points against the domain and the network and enters in the ledger those that close something.

    ``sharpen(points, n)`` gives bounds of the first n layers at each point, (lower, upper), (batch, n_k): in float32
    arithmetic they tell more signs than forward passes do, whose errors grow by ``|W|`` at each layer. ``uncertain``,
    (2, n), are the questions that an evaluation at some point may show: unless a better point shows them for certain
    they stay open, since nothing can refute them.
    """

    def __init__(self, network: Network, domain: Domain, ledger: Ledger, sharpen: Sharpen | None = None) -> None:
        self.network = network
        self.domain = domain
        self.ledger = ledger
        self.sharpen = sharpen
        self.uncertain = np.zeros((2, network.n_neurons), dtype=bool)
        self._tried = np.full((2, network.n_neurons), -1.0 - PROMISING)
        self.chunk = max(1, CHUNK_BYTES // (8 * 4 * (network.n_neurons + network.n_inputs + 1)))

    def signs(self, points: Array) -> Signs:
        """Certain signs of all pre-activations, (batch, n_neurons); 0 where rounding could change them."""
        return _all_signs(self.network.evaluate(points))

    def inside(self, points: Array) -> Mask:
        """Which points, (batch, n_inputs), lie in which part of the domain, (n_parts, batch)."""
        finite = np.isfinite(points).all(axis=1)
        held = np.zeros((len(self.domain.parts), len(points)), dtype=bool)
        if finite.any():
            held[:, finite] = [part.holds(points[finite]) for part in self.domain.parts]
        return held

    def offer(self, points: Array, by: str) -> int:
        """Offer points, (batch, n_inputs); returns how many were kept. Those outside the domain are ignored."""
        points = np.atleast_2d(points)
        with self.ledger.lock:
            distrusted = len(self.ledger.dead_sources)
            kept = self._offer_all(points, by)
            while len(self.ledger.dead_sources) > distrusted:
                # Questions are open again that points at hand may close.
                distrusted = len(self.ledger.dead_sources)
                kept += self._offer_all(np.array(self.ledger.points), by)
            return kept

    def _offer_all(self, points: Array, by: str) -> int:
        inside = self.inside(points)
        points, inside = points[inside.any(axis=0)], inside[:, inside.any(axis=0)]
        kept = 0
        for start in range(0, len(points), self.chunk):
            chunk = slice(start, start + self.chunk)
            kept += self._offer(points[chunk], inside[:, chunk], by)
        return kept

    def _offer(self, points: Array, inside: Mask, by: str) -> int:
        ledger = self.ledger
        evaluation = self.network.evaluate(points)
        signs = _all_signs(evaluation)
        if self.network.arithmetic == "float32":
            signs = self._sharper(points, evaluation, signs)
        self.confront(points, signs, inside, by)
        open_ = ledger.pending()
        shown = np.concatenate([(signs > 0)[:, open_[POSITIVE]], (signs < 0)[:, open_[NEGATIVE]]], axis=1)
        columns = (np.flatnonzero(open_[POSITIVE]), np.flatnonzero(open_[NEGATIVE]))
        left = np.flatnonzero(shown.any(axis=0))
        kept = 0
        # Few points should carry many questions: always the one that closes most of what is left.
        while len(left):
            best = int(np.count_nonzero(shown[:, left], axis=1).argmax())
            hits = left[shown[best, left]]
            split = np.searchsorted(hits, len(columns[POSITIVE]))
            closes = (columns[POSITIVE][hits[:split]], columns[NEGATIVE][hits[split:] - len(columns[POSITIVE])])
            ledger.add_witness(points[best], closes, by, parts=np.flatnonzero(inside[:, best]).tolist())
            left = left[~shown[best, left]]
            kept += 1
        return kept

    def _sharper(self, points: Array, evaluation: Evaluation, signs: Signs) -> Signs:
        """Signs; those that would close a question are looked at more closely at the best points for it."""
        if not evaluation.pre:
            return signs
        values, errors = (np.concatenate(list(found), axis=1) for found in (evaluation.pre, evaluation.pre_error))
        open_ = self.ledger.pending()
        rows: set[int] = set()
        columns, share = np.arange(values.shape[1]), values / np.maximum(errors, 1e-300)
        for side, sign in ((POSITIVE, 1), (NEGATIVE, -1)):
            best = (sign * share).argmax(axis=0)
            largest = sign * share[best, columns]
            self.uncertain[side] |= open_[side] & (largest > 0)
            chosen = open_[side] & (sign * signs[best, columns] <= 0) & (largest > PROMISING + self._tried[side])
            self._tried[side, chosen] = largest[chosen]
            rows.update(best[chosen].tolist())
        if not rows or self.sharpen is None:
            return signs
        signs, few = signs.copy(), np.array(sorted(rows), np.intp)
        at_once = int(np.clip(SHARPENED_VALUES // values.shape[1], 1, SHARPENED))
        for start in range(0, min(len(few), 4 * at_once), at_once):
            some = few[start : start + at_once]
            found = self.sharpen(points[some], len(self.network.layers))
            lower, upper = (np.concatenate([pair[i] for pair in found], axis=1) for i in (0, 1))
            signs[some] = np.where(lower > 0, 1, np.where(upper < 0, -1, signs[some])).astype(np.int8)
            self.uncertain[POSITIVE] |= open_[POSITIVE] & (upper > 0).any(axis=0)
            self.uncertain[NEGATIVE] |= open_[NEGATIVE] & (lower < 0).any(axis=0)
        return signs

    def confront(self, points: Array, signs: Signs, inside: Mask, by: str) -> None:
        """Enter points that show what was refuted on a part that contains them; nothing else is closed.

        ``signs`` and ``inside`` are those of the points.
        """
        ledger = self.ledger
        for part, here in enumerate(inside):
            refuted = ledger.part_by[part] >= 0
            if not (refuted.any() and here.any()):
                continue
            positive = (signs > 0) & refuted[POSITIVE]
            negative = (signs < 0) & refuted[NEGATIVE]
            for row in np.flatnonzero(here & (positive.any(axis=1) | negative.any(axis=1))):
                with ledger.lock:
                    still = ledger.part_by[part] >= 0
                    closes = (
                        np.flatnonzero(positive[row] & still[POSITIVE]),
                        np.flatnonzero(negative[row] & still[NEGATIVE]),
                    )
                    if len(closes[POSITIVE]) + len(closes[NEGATIVE]):
                        ledger.add_witness(points[row], closes, by, parts=np.flatnonzero(inside[:, row]).tolist())


def _all_signs(evaluation: Evaluation) -> Signs:
    """`Evaluation.signs` of all layers side by side."""
    columns = [evaluation.signs(k) for k in range(len(evaluation.pre))]
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(evaluation.output), 0), np.int8)
