"""From points to witnesses: certified forward passes close the questions that they show."""

from __future__ import annotations

import numpy as np

from stablenet.domain import Domain
from stablenet.ledger import NEGATIVE, POSITIVE, Array, Index, Ledger
from stablenet.network import Network

CHUNK_BYTES = 64 * 2**20


class Witnesser:
    """Checks points against the domain and the network and enters in the ledger those that close something."""

    def __init__(self, network: Network, domain: Domain, ledger: Ledger) -> None:
        self.network = network
        self.domain = domain
        self.ledger = ledger
        self.chunk = max(1, CHUNK_BYTES // (8 * 4 * (network.n_neurons + network.n_inputs + 1)))

    def signs(self, points: Array) -> np.ndarray[tuple[int, int], np.dtype[np.int8]]:
        """Certain signs of all pre-activations, (batch, n_neurons); 0 where rounding could change them."""
        evaluation = self.network.evaluate(points)
        columns = [evaluation.signs(k) for k in range(len(self.network.layers))]
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(points), 0), np.int8)

    def offer(self, points: Array, by: str) -> int:
        """Offer points, (batch, n_inputs); returns how many were kept. Those outside the domain are ignored."""
        points = np.atleast_2d(points)
        points = points[np.isfinite(points).all(axis=1)]
        points = points[self.domain.contains(points)] if len(points) else points
        with self.ledger.lock:
            return sum(
                self._offer(points[start : start + self.chunk], by) for start in range(0, len(points), self.chunk)
            )

    def _offer(self, points: Array, by: str) -> int:
        ledger = self.ledger
        signs = self.signs(points)
        self._contradict(points, signs, by)
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
            ledger.add_witness(points[best], closes, by)
            left = left[~shown[best, left]]
            kept += 1
        return kept

    def _contradict(self, points: Array, signs: np.ndarray[tuple[int, int], np.dtype[np.int8]], by: str) -> None:
        """Enter a point that shows what was refuted, on any part that contains it."""
        ledger = self.ledger
        for part, member in enumerate(self.domain.parts):
            refuted = ledger.part_by[part] >= 0
            if not refuted.any():
                continue
            positive = (signs > 0) & refuted[POSITIVE]
            negative = (signs < 0) & refuted[NEGATIVE]
            suspects = np.flatnonzero(positive.any(axis=1) | negative.any(axis=1))
            for row in suspects[member.holds(points[suspects])] if len(suspects) else suspects:
                closes: tuple[Index, Index] = (np.flatnonzero(positive[row]), np.flatnonzero(negative[row]))
                still = ledger.part_by[part] >= 0
                closes = (closes[0][still[POSITIVE][closes[0]]], closes[1][still[NEGATIVE][closes[1]]])
                if len(closes[0]) + len(closes[1]):
                    ledger.add_witness(points[row], closes, by, part=part)
