"""The bounds that a search may use: those of which nothing has been withdrawn.

A witness that contradicts a source takes back all that the source refuted (`Ledger`). The source's bounds, and what was
derived with its help, must go with it. Every search takes the bounds of a part from here: the last ones that rest on
no withdrawn source, or new ones by a method that has not been withdrawn. Work that is under way when a source is
withdrawn began with bounds that may have been wrong; its refutations are not recorded (`Ledger.refute`).
"""

from __future__ import annotations

from collections.abc import Sequence

from stablenet.bounds import registry as bound_methods
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import SearchStoppedError
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.domain.regions import Domain

BELIEVED = ("crown", "interval")
"""Methods for new bounds; the first is taken of which no source has been withdrawn."""


class TrustedBounds:
    """Bounds by part: ``bounds[part]`` to read, ``bounds[part] = better`` to enter better ones.

    ``given`` are those found before the search, one for each part. ``decide`` says whether bounds computed anew may
    refute.
    """

    def __init__(
        self, network: Network, domain: Domain, ledger: Ledger, given: Sequence[Bounds], *, decide: bool
    ) -> None:
        self.network = network
        self.domain = domain
        self.ledger = ledger
        self.decide = decide
        self._known = [[(bounds, frozenset(bounds.methods))] for bounds in given]

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, part: int) -> Bounds:
        """The best bounds that rest on nothing withdrawn; raises `SearchStoppedError` where every method has been
        withdrawn.
        """
        known, ledger = self._known[part], self.ledger
        with ledger.lock:
            while known and not ledger.dead_sources.isdisjoint(known[-1][1]):
                known.pop()
            return known[-1][0] if known else self._anew(part)

    def __setitem__(self, part: int, bounds: Bounds) -> None:
        """Enter bounds; they rest on their methods, and on all that has refuted something on the part so far."""
        with self.ledger.lock:
            self._known[part].append((bounds, self.ledger.refuters(part) | frozenset(bounds.methods)))

    def rigorous(self, part: int) -> Bounds | None:
        """The last bounds entered that are rigorous in every layer and rest on nothing withdrawn, if there are any."""
        dead = self.ledger.dead_sources
        for bounds, sources in reversed(self._known[part]):
            if dead.isdisjoint(sources) and all(layer.rigorous for layer in bounds.layers):
                return bounds
        return None

    def _anew(self, part: int) -> Bounds:
        for name in BELIEVED:
            if not self.ledger.dead_sources.isdisjoint(("interval", name)):
                continue
            bounds = bound_methods.get(name).run(self.network, self.domain.parts[part])
            self._known[part].append((bounds, frozenset(bounds.methods)))
            self.ledger.set_bounds(part, bounds)
            if self.decide:
                self.ledger.refute_by_bounds(part, bounds)
            # A witness may contradict these too.
            return self[part]
        raise SearchStoppedError("solver")
