"""The ledger: every question, its evidence, and the verdicts that follow. It is the only mutable state of a run.

A neuron asks two questions: can its pre-activation be positive on the domain, can it be negative. Each is
open, witnessed or refuted; verdicts are derived and never stored. All changes are events (plain JSON
values), so that a ledger in one process can follow one in another. Timing, solves and the curve are in
the ledger's `stablenet.core.run_log.RunLog`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.bounds import Bounds
from stablenet.core.certificates import Certificate, Certified
from stablenet.core.errors import InputError
from stablenet.core.events import Event, decode_array, encode_array
from stablenet.core.questions import (
    NEGATIVE,
    POSITIVE,
    SIDE_NAMES,
    SIDES,
    Contradiction,
    Side,
    State,
    Verdict,
    verdicts_of,
)
from stablenet.core.run_log import RunLog


class Ledger:
    """Questions of a network with layers of the given sizes, over a domain of ``n_parts`` parts.

    Neurons are addressed by a flat index; `flat` and `locate` convert. ``emit`` receives each event as it
    is applied. A question is witnessed if one point of the domain shows it, refuted if it is refuted on
    *every* part; verdicts of parts are never combined. ``log`` is the log of the run.
    """

    def __init__(self, sizes: Sequence[int], n_parts: int = 1, emit: Callable[[Event], None] | None = None) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        self.n_parts = n_parts
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.intp)
        n = int(self.offsets[-1])
        self.emit = emit
        self.log = RunLog(self._send)
        self.sources: list[str] = []
        self.points: list[Array] = []
        self.contradictions: list[Contradiction] = []
        self.borderline = np.zeros((2, n), dtype=bool)
        self.unanswered = np.zeros((2, n), dtype=bool)
        self.witness = np.full((2, n), -1, dtype=np.int64)
        self.witness_by = np.full((2, n), -1, dtype=np.int16)
        self.part_by = np.full((n_parts, 2, n), -1, dtype=np.int16)
        self.part_rigorous = np.zeros((n_parts, 2, n), dtype=bool)
        self.certified = Certified(n_parts, n)
        self.dead_sources: set[str] = set()
        self.lock = threading.RLock()
        self._bounds: dict[tuple[str, ...], tuple[Array, Array]] = {}
        self._inside: list[frozenset[int]] = []
        self._order = np.zeros((n_parts, 2, n), dtype=np.int64)
        self._first: dict[tuple[int, int], int] = {}
        self._sure: set[int] = set()
        self._refutations = 0

    # Reading

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return int(self.offsets[-1])

    def flat(self, layer: int, neurons: Index | int) -> Index:
        """Flat indices of neurons of a layer."""
        return np.asarray(np.atleast_1d(np.asarray(neurons, dtype=np.intp)) + self.offsets[layer])

    def locate(self, index: int) -> tuple[int, int]:
        """Layer and neuron of a flat index."""
        layer = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return layer, int(index - self.offsets[layer])

    def layer_slice(self, layer: int) -> slice:
        """Flat indices of a layer."""
        return slice(int(self.offsets[layer]), int(self.offsets[layer + 1]))

    @property
    def states(self) -> npt.NDArray[np.int8]:
        """`State` of each question, (2, n). A witness beats a refutation."""
        refuted = (self.part_by >= 0).all(axis=0)
        return np.where(self.witness >= 0, State.WITNESSED, np.where(refuted, State.REFUTED, State.OPEN)).astype(
            np.int8
        )

    @property
    def verdicts(self) -> npt.NDArray[np.int8]:
        """`Verdict` of each neuron, (n,), by the table of the design."""
        return verdicts_of(self.states)

    def pending(self, part: int | None = None) -> Mask:
        """Pending questions, (2, n): the open ones of neurons without a verdict.

        With ``part``, only those not yet refuted on that part.
        """
        states = self.states
        mask = np.asarray((states == State.OPEN) & (verdicts_of(states) == Verdict.UNKNOWN))
        return mask if part is None else np.asarray(mask & (self.part_by[part] < 0))

    @property
    def n_pending(self) -> int:
        """How many questions are pending."""
        return int(np.count_nonzero(self.pending()))

    @property
    def complete(self) -> bool:
        """Whether every neuron has a verdict."""
        return not (self.verdicts == Verdict.UNKNOWN).any()

    @property
    def rigorous(self) -> Mask:
        """Neurons whose verdict rests on rigorous refutations or on witnesses only, (n,)."""
        proof = np.asarray(self.part_rigorous.all(axis=0))
        verdict = self.verdicts
        positive, negative = proof[POSITIVE], proof[NEGATIVE]
        inactive, active = verdict == Verdict.STABLY_INACTIVE, verdict == Verdict.STABLY_ACTIVE
        return np.asarray((verdict == Verdict.UNSTABLE) | (inactive & positive) | (active & negative))

    @property
    def lower(self) -> Array:
        """Lower bounds to report, (n_parts, n): the best of the methods that no witness has contradicted."""
        found = [lower for methods, (lower, _) in self._bounds.items() if self.dead_sources.isdisjoint(methods)]
        return np.asarray(np.fmax.reduce([np.full((self.n_parts, self.n_neurons), -np.inf), *found]))

    @property
    def upper(self) -> Array:
        """Upper bounds to report, (n_parts, n)."""
        found = [upper for methods, (_, upper) in self._bounds.items() if self.dead_sources.isdisjoint(methods)]
        return np.asarray(np.fmin.reduce([np.full((self.n_parts, self.n_neurons), np.inf), *found]))

    @property
    def withdrawals(self) -> int:
        """How many sources have been withdrawn; work begun at another number may rest on what was revoked."""
        return len(self.dead_sources)

    def refuters(self, part: int) -> frozenset[str]:
        """The sources of all that is refuted on a part."""
        codes = self.part_by[part]
        return frozenset(self.sources[code] for code in np.unique(codes[codes >= 0]))

    # Writing

    def _send(self, event: Event) -> None:
        with self.lock:
            event.setdefault("t", round(self.log.elapsed, 6))
            self.apply(event)
            if self.emit is not None:
                self.emit(event)

    def refute(
        self,
        part: int,
        side: Side,
        neurons: Index,
        by: str,
        *,
        rigorous: bool | Mask,
        since: int | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """Record that questions (flat indices) are refuted on a part. A rigorous refutation takes the place of one that
        is not; others that are known are kept. ``certificate`` says what proving another's claims has cost.

        Where a witness in that part shows one of them, this is a contradiction: see `add_witness`. Refutations of a
        source that was contradicted before are not recorded, nor are those whose work began when ``since`` sources had
        been withdrawn (None: it rests on no other source) if more have been withdrawn since.
        """
        neurons = np.asarray(neurons, dtype=np.intp)
        proof = np.broadcast_to(np.asarray(rigorous, dtype=bool), neurons.shape)
        with self.lock:
            if by in self.dead_sources or since not in (None, self.withdrawals):
                return
            witness = self.witness[side, neurons]
            for i in np.flatnonzero(witness >= 0):
                if part in self._inside[witness[i]]:
                    self._accuse(by, side, int(neurons[i]), int(witness[i]))
                    return
            known = self.part_by[part, side, neurons] >= 0
            fresh = ~(known & (self.part_rigorous[part, side, neurons] | ~proof)) & (witness < 0)
            if not fresh.any():
                return
            event: Event = {"event": "refute", "part": part, "side": int(side), "neurons": neurons[fresh].tolist()}
            event |= {"by": by, "rigorous": proof[fresh].tolist()}
            if certificate is not None:
                event["leaves"] = certificate.leaves[fresh].tolist()
                event["seconds"] = certificate.seconds[fresh].tolist()
            self._send(event)

    def add_witness(
        self, point: Array, closes: tuple[Index, Index], by: str, *, parts: Collection[int] | None = None
    ) -> None:
        """Record a point of the domain, (n_inputs,), and the questions (flat indices per side) that it shows.

        The caller has certified both. ``parts`` are those that contain the point (not needed if there is but one).
        What was refuted on one of them and is shown by the point is a contradiction: all that its source refuted is
        revoked, and what may rest on it: later refutations on the same part that are not rigorous, and all later ones
        if the source called anything of its own rigorous.
        """
        inside = parts if parts is not None else ([0] if self.n_parts == 1 else [])
        with self.lock:
            number = len(self.points)
            for part in inside:
                for side, neurons in zip(SIDES, closes, strict=True):
                    codes = self.part_by[part, side, neurons]
                    for code in np.unique(codes[codes >= 0]):
                        self._accuse(self.sources[code], side, int(neurons[codes == code][0]), number)
            self._send(
                {
                    "event": "witness",
                    "point": encode_array(point),
                    "positive": closes[POSITIVE].tolist(),
                    "negative": closes[NEGATIVE].tolist(),
                    "by": by,
                    "parts": sorted(int(part) for part in inside),
                }
            )

    def _accuse(self, source: str, side: Side, index: int, witness: int) -> None:
        layer, neuron = self.locate(index)
        self._send(
            {
                "event": "contradiction",
                "source": source,
                "layer": layer,
                "neuron": neuron,
                "side": SIDE_NAMES[side],
                "witness": witness,
            }
        )

    def distrust(self, source: str) -> None:
        """Withdraw a source that was wrong about something else than a question; revokes as a contradiction does."""
        self._send({"event": "distrust", "source": source})

    def presume(self, sources: Collection[str]) -> None:
        """Record that later refutations may rest on these sources, in whichever order they are recorded."""
        self._send({"event": "presume", "sources": sorted(sources)})

    def set_bounds(self, part: int, bounds: Bounds, *, rests_on: Collection[str] = ()) -> None:
        """Record the bounds of a part as those to report (intersected with those known).

        They rest on their methods, and on the sources ``rests_on`` of refutations that they made use of.
        """
        lower = np.concatenate([layer.lower for layer in bounds.layers]) if bounds.layers else np.zeros(0)
        upper = np.concatenate([layer.upper for layer in bounds.layers]) if bounds.layers else np.zeros(0)
        self._send(
            {
                "event": "bounds",
                "part": part,
                "methods": [*bounds.methods, *sorted(set(rests_on) - set(bounds.methods))],
                "rigorous": list(bounds.rigorous_methods),
                "lower": encode_array(lower),
                "upper": encode_array(upper),
            }
        )

    def refute_by_bounds(self, part: int, bounds: Bounds) -> None:
        """Refute what bounds exclude on a part; nothing, once one of their methods has been withdrawn."""
        since = self.withdrawals
        if not self.dead_sources.isdisjoint(bounds.methods):
            return
        for k, layer in enumerate(bounds.layers):
            for side, excluded, codes, proof in (
                (POSITIVE, layer.upper <= 0, layer.upper_by, layer.upper_rigorous),
                (NEGATIVE, layer.lower >= 0, layer.lower_by, layer.lower_rigorous),
            ):
                for code, method in enumerate(bounds.methods):
                    found = np.flatnonzero(excluded & (codes == code))
                    self.refute(part, side, self.flat(k, found), method, rigorous=proof[found], since=since)

    def set_unanswered(self, side: Side, neurons: Index) -> None:
        """Record that questions stay open because their solver failed."""
        self._send({"event": "unanswered", "side": int(side), "neurons": np.asarray(neurons).tolist()})

    def inside(self, part: int, first: int = 0) -> Array:
        """The witnesses from number ``first`` on that lie in a part, (m, n_inputs), in the order in which they came."""
        found = [x for x, parts in zip(self.points[first:], self._inside[first:], strict=True) if part in parts]
        return np.array(found) if found else np.zeros((0, 0))

    def set_borderline(self, side: Side, neurons: Index) -> None:
        """Record that a question's sign lies within the margin: it stays open."""
        self._send({"event": "borderline", "side": int(side), "neurons": np.asarray(neurons).tolist()})

    # Events

    def _code(self, source: str) -> int:
        if source not in self.sources:
            self.sources.append(source)
        return self.sources.index(source)

    def apply(self, event: Event) -> None:
        """Apply an event of this or another ledger of the same shape."""
        kind = str(event.get("event"))
        if kind in self.log.handlers:
            self.log.handlers[kind](event)
            return
        handler = self._handlers.get(kind)
        if handler is None:
            known = ", ".join([*self._handlers, *self.log.handlers])
            raise InputError(f"unknown ledger event {event.get('event')!r}; there are: {known}")
        handler(self, event)
        if kind in {"refute", "witness", "contradiction", "distrust", "bounds"}:
            self.log.mark(float(event["t"]), self.n_pending)

    def _on_refute(self, event: Event) -> None:
        part, side, neurons = event["part"], event["side"], event["neurons"]
        code = self._code(event["by"])
        self._refutations += 1
        self._first.setdefault((code, part), self._refutations)
        self._order[part, side, neurons] = self._refutations
        if any(event["rigorous"]):
            self._sure.add(code)
        if "leaves" in event:
            before = self.part_by[part, side, neurons]
            found = Certificate(np.array(event["leaves"]), np.array(event["seconds"]))
            self.certified.enter(part, side, neurons, np.where(before >= 0, before, code), found)
        self.part_by[part, side, neurons] = code
        self.part_rigorous[part, side, neurons] = event["rigorous"]

    def _on_witness(self, event: Event) -> None:
        code, number = self._code(event["by"]), len(self.points)
        # The point comes first: after a Ctrl-C in between, no question may name a point that is not there.
        self.points.append(decode_array(event["point"]))
        self._inside.append(frozenset(event["parts"]))
        for side in SIDES:
            neurons = np.asarray(event[SIDE_NAMES[side]], dtype=np.intp)
            fresh = neurons[self.witness[side, neurons] < 0]
            self.witness[side, fresh] = number
            self.witness_by[side, fresh] = code

    def _on_contradiction(self, event: Event) -> None:
        self.contradictions.append(
            Contradiction(event["source"], event["layer"], event["neuron"], event["side"], event["witness"])
        )
        self._revoke(event["source"])

    def _on_distrust(self, event: Event) -> None:
        self._revoke(event["source"])

    def _revoke(self, source: str) -> None:
        """Take back what a source refuted, and what was refuted later and may rest on it."""
        self.dead_sources.add(source)
        code = self._code(source)
        gone = self.part_by == code
        for part in range(self.n_parts):
            first = self._first.get((code, part))
            if first is not None:
                later = self._order[part] > first
                gone[part] |= later if code in self._sure else later & ~self.part_rigorous[part]
        self.part_by[gone] = -1
        self.part_rigorous[gone] = False
        self.certified.forget(gone)

    def _on_bounds(self, event: Event) -> None:
        part, shape = event["part"], (self.n_parts, self.n_neurons)
        for method in event["methods"]:
            code = self._code(method)
            self._first.setdefault((code, part), self._refutations)
            if method in event["rigorous"]:
                self._sure.add(code)
        lower, upper = self._bounds.setdefault(
            tuple(event["methods"]), (np.full(shape, -np.inf), np.full(shape, np.inf))
        )
        lower[part] = np.fmax(lower[part], decode_array(event["lower"]))
        upper[part] = np.fmin(upper[part], decode_array(event["upper"]))

    def _on_presume(self, event: Event) -> None:
        for source in event["sources"]:
            for part in range(self.n_parts):
                self._first.setdefault((self._code(source), part), self._refutations)

    def _on_unanswered(self, event: Event) -> None:
        self.unanswered[event["side"], event["neurons"]] = True

    def _on_borderline(self, event: Event) -> None:
        self.borderline[event["side"], event["neurons"]] = True

    _handlers: Mapping[str, Callable[[Ledger, Event], None]] = {
        "refute": _on_refute,
        "witness": _on_witness,
        "contradiction": _on_contradiction,
        "distrust": _on_distrust,
        "bounds": _on_bounds,
        "presume": _on_presume,
        "unanswered": _on_unanswered,
        "borderline": _on_borderline,
    }
