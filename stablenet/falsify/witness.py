"""From points to witnesses: certified forward passes close the questions that they show."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array, Mask
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.core.questions import NEGATIVE, POSITIVE
from stablenet.domain.regions import Domain

Signs = npt.NDArray[np.int8]

CHUNK_BYTES = 64 * 2**20


class Witnesser:
    """Checks points against the domain and the network and enters in the ledger those that close something."""

    def __init__(self, network: Network, domain: Domain, ledger: Ledger) -> None:
        self.network = network
        self.domain = domain
        self.ledger = ledger
        self.chunk = max(1, CHUNK_BYTES // (8 * 4 * (network.n_neurons + network.n_inputs + 1)))

    def signs(self, points: Array) -> Signs:
        """Certain signs of all pre-activations, (batch, n_neurons); 0 where rounding could change them."""
        evaluation = self.network.evaluate(points)
        columns = [evaluation.signs(k) for k in range(len(self.network.layers))]
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(points), 0), np.int8)

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
        signs = self.signs(points)
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
