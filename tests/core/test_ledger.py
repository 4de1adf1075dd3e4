"""Questions, verdicts, contradictions, and the stream of events that carries them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError
from stablenet.core.ledger import NEGATIVE, POSITIVE, SIDES, Event, Ledger, State, Verdict

NONE = np.zeros(0, dtype=np.intp)
POINT = np.array([0.25, -0.5])


def index(*neurons: int) -> np.ndarray:
    return np.array(neurons, dtype=np.intp)


def show(ledger: Ledger, side: int, *neurons: int, by: str = "falsify", parts: list[int] | None = None) -> None:
    closes = [NONE, NONE]
    closes[side] = index(*neurons)
    ledger.add_witness(POINT, (closes[0], closes[1]), by, parts=parts)


def arrange(state: State, side: int) -> Ledger:
    """A ledger of one neuron with one question in a state."""
    ledger = Ledger([1])
    put(ledger, state, side)
    return ledger


def put(ledger: Ledger, state: State, side: int) -> None:
    if state == State.WITNESSED:
        show(ledger, side, 0)
    elif state == State.REFUTED:
        ledger.refute(0, SIDES[side], index(0), "crown", rigorous=True)


OPEN, SHOWN, REFUTED = State.OPEN, State.WITNESSED, State.REFUTED
TABLE = [
    (OPEN, OPEN, Verdict.UNKNOWN),
    (OPEN, SHOWN, Verdict.UNKNOWN),
    (SHOWN, OPEN, Verdict.UNKNOWN),
    (SHOWN, SHOWN, Verdict.UNSTABLE),
    (REFUTED, OPEN, Verdict.STABLY_INACTIVE),
    (REFUTED, SHOWN, Verdict.STABLY_INACTIVE),
    (REFUTED, REFUTED, Verdict.STABLY_INACTIVE),
    (OPEN, REFUTED, Verdict.STABLY_ACTIVE),
    (SHOWN, REFUTED, Verdict.STABLY_ACTIVE),
]


@pytest.mark.parametrize(("positive", "negative", "verdict"), TABLE)
def test_verdict_table(positive: State, negative: State, verdict: Verdict) -> None:
    ledger = arrange(positive, POSITIVE)
    put(ledger, negative, NEGATIVE)
    assert ledger.states[:, 0].tolist() == [positive, negative]
    assert ledger.verdicts.tolist() == [verdict]
    assert ledger.complete == (verdict != Verdict.UNKNOWN)


@pytest.mark.parametrize(("positive", "negative", "verdict"), TABLE)
def test_pending_are_open_questions_of_neurons_without_verdict(
    positive: State, negative: State, verdict: Verdict
) -> None:
    ledger = arrange(positive, POSITIVE)
    put(ledger, negative, NEGATIVE)
    unknown = verdict == Verdict.UNKNOWN
    assert ledger.pending()[:, 0].tolist() == [unknown and positive == OPEN, unknown and negative == OPEN]


def test_refuted_on_the_domain_only_if_on_every_part() -> None:
    ledger = Ledger([1], n_parts=3)
    for part in range(3):
        assert ledger.states[POSITIVE, 0] == OPEN
        assert ledger.pending(part)[POSITIVE, 0]
        ledger.refute(part, POSITIVE, index(0), "interval", rigorous=True)
        assert not ledger.pending(part)[POSITIVE, 0]
    assert ledger.verdicts.tolist() == [Verdict.STABLY_INACTIVE]


def test_verdicts_of_parts_are_never_combined() -> None:
    """g = x is stably inactive on [-1, 0], stably active on [0, 1], and unstable on the union."""
    ledger = Ledger([1], n_parts=2)
    ledger.refute(0, POSITIVE, index(0), "interval", rigorous=True)
    ledger.refute(1, NEGATIVE, index(0), "interval", rigorous=True)
    assert ledger.verdicts.tolist() == [Verdict.UNKNOWN]
    show(ledger, POSITIVE, 0, parts=[1])
    show(ledger, NEGATIVE, 0, parts=[0])
    assert ledger.verdicts.tolist() == [Verdict.UNSTABLE]
    assert not ledger.contradictions


def test_known_evidence_is_kept() -> None:
    ledger = Ledger([2])
    ledger.refute(0, POSITIVE, index(0), "crown", rigorous=True)
    ledger.refute(0, POSITIVE, index(0, 1), "network", rigorous=False)
    assert [ledger.sources[code] for code in ledger.part_by[0, POSITIVE]] == ["crown", "network"]
    assert ledger.part_rigorous[0, POSITIVE].tolist() == [True, False]
    show(ledger, NEGATIVE, 0, by="samples")
    show(ledger, NEGATIVE, 0, by="falsify")
    assert ledger.witness[NEGATIVE, 0] == 0
    assert ledger.sources[ledger.witness_by[NEGATIVE, 0]] == "samples"


def test_rigour_is_that_of_the_evidence_behind_the_verdict() -> None:
    ledger = Ledger([3], n_parts=2)
    for part, proof in enumerate([np.array([True, True, True]), np.array([True, False, True])]):
        ledger.refute(part, POSITIVE, index(0, 1, 2), f"method{part}", rigorous=proof)
    ledger.refute(0, NEGATIVE, index(0), "network", rigorous=False)
    assert ledger.rigorous.tolist() == [True, False, True]


def _truth(ledger: Ledger) -> None:
    """Honest bounds and one liar on two parts, then a witness against the liar."""
    ledger.refute(0, POSITIVE, index(0), "crown", rigorous=True)
    ledger.refute(0, NEGATIVE, index(3), "early", rigorous=False)
    ledger.refute(0, POSITIVE, index(1, 2), "liar", rigorous=False)
    ledger.refute(1, NEGATIVE, index(4), "liar", rigorous=False)
    ledger.refute(0, NEGATIVE, index(5), "later", rigorous=False)
    ledger.refute(0, NEGATIVE, index(1), "interval", rigorous=True)
    show(ledger, POSITIVE, 2, parts=[0])


def test_contradiction_revokes_all_of_the_source() -> None:
    ledger = Ledger([3, 3], n_parts=2)
    _truth(ledger)
    (found,) = ledger.contradictions
    assert (found.source, found.layer, found.neuron, found.side, found.witness) == ("liar", 0, 2, "positive", 0)
    assert "liar" in str(found)
    assert "neuron 2 of layer 0" in str(found)
    left = {
        (part, side, int(n), ledger.sources[ledger.part_by[part, side, n]])
        for part in range(2)
        for side in SIDES
        for n in np.flatnonzero(ledger.part_by[part, side] >= 0)
    }
    # What is rigorous rests on nothing else, what came before not on the liar; the later MILP may.
    assert left == {(0, POSITIVE, 0, "crown"), (0, NEGATIVE, 3, "early"), (0, NEGATIVE, 1, "interval")}
    assert ledger.states[POSITIVE, 2] == SHOWN


def test_a_dead_source_is_not_believed_again() -> None:
    ledger = Ledger([3, 3], n_parts=2)
    _truth(ledger)
    ledger.refute(0, POSITIVE, index(1), "liar", rigorous=False)
    assert ledger.part_by[0, POSITIVE, 1] == -1
    ledger.refute(0, POSITIVE, index(1), "honest", rigorous=False)
    assert ledger.sources[ledger.part_by[0, POSITIVE, 1]] == "honest"


def test_a_refutation_of_what_is_witnessed_is_a_contradiction_too() -> None:
    ledger = Ledger([2])
    show(ledger, POSITIVE, 0)
    ledger.refute(0, NEGATIVE, index(1), "liar", rigorous=False)
    ledger.refute(0, POSITIVE, index(0, 1), "liar", rigorous=False)
    assert [found.source for found in ledger.contradictions] == ["liar"]
    assert (ledger.part_by < 0).all()
    assert ledger.states[POSITIVE, 0] == SHOWN


def test_a_witness_elsewhere_contradicts_nothing() -> None:
    ledger = Ledger([1], n_parts=2)
    show(ledger, POSITIVE, 0, parts=[1])
    ledger.refute(0, POSITIVE, index(0), "interval", rigorous=True)
    assert not ledger.contradictions
    ledger.refute(1, POSITIVE, index(0), "interval", rigorous=True)
    assert [found.source for found in ledger.contradictions] == ["interval"]


def test_distrust_revokes_without_a_witness() -> None:
    ledger = Ledger([2])
    ledger.refute(0, POSITIVE, index(0), "network", rigorous=False)
    ledger.distrust("network")
    ledger.refute(0, POSITIVE, index(1), "network", rigorous=False)
    assert (ledger.part_by < 0).all()
    assert not ledger.contradictions


def bounds_of(methods: list[tuple[str, float, float]], n: int) -> Bounds:
    (name, low, high), *others = methods
    bounds = Bounds.of(name, [(np.full(n, low), np.full(n, high))], rigorous=True)
    for name, low, high in others:
        bounds = bounds.tighten(name, 0, np.full(n, low), np.full(n, high), rigorous=True)
    return bounds


def test_bounds_of_a_liar_are_not_reported() -> None:
    ledger = Ledger([2])
    ledger.set_bounds(0, bounds_of([("interval", -3.0, 4.0)], 2))
    lying = bounds_of([("interval", -3.0, 4.0), ("liar", -1.0, -0.5)], 2)
    ledger.set_bounds(0, lying)
    ledger.refute_by_bounds(0, lying)
    assert ledger.upper.tolist() == [[-0.5, -0.5]]
    show(ledger, POSITIVE, 1)
    assert ledger.verdicts.tolist() == [Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert ledger.upper.tolist() == [[4.0, 4.0]]
    assert ledger.lower.tolist() == [[-3.0, -3.0]]


def test_refute_by_bounds_names_method_and_side() -> None:
    ledger = Ledger([4])
    low, high = np.array([-1.0, 0.0, -2.0, np.nan]), np.array([1.0, 5.0, 0.0, np.nan])
    bounds = Bounds.of("interval", [(low, high)], rigorous=True)
    ledger.set_bounds(0, bounds)
    ledger.refute_by_bounds(0, bounds)
    expected = [Verdict.UNKNOWN, Verdict.STABLY_ACTIVE, Verdict.STABLY_INACTIVE, Verdict.UNKNOWN]
    assert ledger.verdicts.tolist() == expected
    assert ledger.lower[0, 3] == -np.inf  # NaN bounds nothing
    assert ledger.upper[0, 3] == np.inf


def test_flat_and_locate_are_inverse() -> None:
    ledger = Ledger([3, 1, 4])
    for flat in range(8):
        layer, neuron = ledger.locate(flat)
        assert ledger.flat(layer, neuron).tolist() == [flat]
    assert ledger.layer_slice(2) == slice(4, 8)


def _random_life(ledger: Ledger, seed: int) -> None:
    """Events of all kinds in a random order, contradictions among them."""
    rng = np.random.default_rng(seed)
    n = ledger.n_neurons
    for _ in range(60):
        part, side = int(rng.integers(ledger.n_parts)), SIDES[int(rng.integers(2))]
        some = np.unique(rng.integers(0, n, size=3))
        match int(rng.integers(6)):
            case 0 | 1:
                rigorous = rng.random(len(some)) < 0.5
                ledger.refute(part, side, some, f"source{rng.integers(6)}", rigorous=rigorous)
            case 2:
                closes = (some, NONE) if side == POSITIVE else (NONE, some)
                ledger.add_witness(rng.normal(size=3), closes, "falsify", parts=[part])
            case 3:
                ledger.add_solve({"by": "network", "dual_bound": None, "solver_s": float(rng.random())})
            case 4:
                ledger.add_seconds("search", float(rng.random()))
            case _:
                ledger.set_borderline(side, some)
    ledger.set_bounds(0, bounds_of([("interval", -1.0 / 3.0, np.inf)], n))


def _content(ledger: Ledger) -> dict[str, Any]:
    return {
        "states": ledger.states.tolist(),
        "verdicts": ledger.verdicts.tolist(),
        "rigorous": ledger.rigorous.tolist(),
        "part_by": ledger.part_by.tolist(),
        "witness": ledger.witness.tolist(),
        "witness_by": ledger.witness_by.tolist(),
        "sources": ledger.sources,
        "points": [point.tolist() for point in ledger.points],
        "contradictions": ledger.contradictions,
        "solves": ledger.solves,
        "seconds": ledger.seconds,
        "curve": ledger.curve,
        "borderline": ledger.borderline.tolist(),
        "lower": ledger.lower.tolist(),
        "upper": ledger.upper.tolist(),
        "dead": ledger.dead_sources,
    }


@pytest.mark.parametrize("seed", range(8))
def test_replayed_events_give_an_identical_ledger(seed: int) -> None:
    lines: list[str] = []
    keep: Callable[[Event], None] = lambda event: lines.append(json.dumps(event))  # noqa: E731
    first = Ledger([4, 3], n_parts=2, emit=keep)
    _random_life(first, seed)
    second = Ledger([4, 3], n_parts=2)
    for line in lines:
        second.apply(json.loads(line))
    assert _content(first) == _content(second)
    assert first.contradictions or seed  # the first life has some


@pytest.mark.parametrize("seed", range(8))
def test_the_curve_runs_forward_and_ends_at_what_is_pending(seed: int) -> None:
    ledger = Ledger([4, 3], n_parts=2)
    _random_life(ledger, seed)
    times, counts = zip(*ledger.curve, strict=True)
    assert list(times) == sorted(times)
    assert counts[-1] == ledger.n_pending
    assert list(counts) == sorted(counts, reverse=True)


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(InputError, match="unknown ledger event 'verdict'"):
        Ledger([1]).apply({"event": "verdict", "neuron": 0, "t": 0.0})
