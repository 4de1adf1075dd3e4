"""Two runs that contradict each other: a question witnessed in one and refuted in the other.

Witnesses are certified by forward pass and checked again when the report is read; so the refuting run is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stablenet.compare.rows import METHOD, SIDES, STATE_CODES, States
from stablenet.compare.store import Store

REFUTED, WITNESSED = STATE_CODES["refuted"], STATE_CODES["witnessed"]


def find_contradictions(store: Store) -> list[dict[str, Any]]:
    """All contradictions of a sweep, one entry for each wrong run; those within a run's own report too.

    An entry has ``instance``; of the first question that is wrong ``layer``, ``neuron``, ``side``, ``by`` (what
    refuted) and ``point`` (a witness); ``refuted`` and ``witnessed``, the keys of the two runs; ``questions``, how many
    this run got wrong; and ``text``.
    """
    rows = {row["key"]: row for row in store.rows()}
    found = []
    for key, row in rows.items():
        if row["outcome"] == "contradiction":
            report = store.report(key)
            own = [_own(row, item) for item in (report or {}).get("contradictions", ())]
            found += own or [_told(row)]
    for instance in dict.fromkeys(row["instance"] for row in rows.values()):
        states = store.states(instance)
        if not states:
            continue
        witness = _first_witness(states)
        keys = list(states)
        for key, state in states.items():
            wrong = np.argwhere((state == REFUTED) & (witness >= 0))
            if len(wrong):
                side, index = (int(i) for i in wrong[0])
                entry = _pair(store, rows[key], rows[keys[witness[side, index]]], (side, index))
                found.append({**entry, "questions": len(wrong)})
    return found


def method_name(row: dict[str, Any], axes: Sequence[str] = METHOD) -> str:
    """A run's method in a few words: its values on some axes."""
    return " ".join(str(row[axis]) for axis in axes if row[axis] != "-")


def wrong_keys(contradictions: list[dict[str, Any]]) -> dict[str, str]:
    """Keys of wrong runs, with the reason."""
    return {item["refuted"]: item["text"] for item in contradictions}


def _first_witness(states: dict[str, States]) -> Any:
    """Position of the first run that witnesses each question, -1 where none does: (2, neurons)."""
    stacked = np.stack(list(states.values())) == WITNESSED
    return np.where(stacked.any(axis=0), stacked.argmax(axis=0), -1)


def _own(row: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    text = (
        f"{row['instance']}: {item['source']!r} in the run of {method_name(row)} (seed {row['seed']}) refuted that "
        f"neuron {item['neuron']} of layer {item['layer']} can be {item['side']}, and a witness of this run shows it"
    )
    question = {name: item[name] for name in ("layer", "neuron", "side")}
    runs = {"refuted": row["key"], "witnessed": row["key"]}
    known = {"by": item["source"], "questions": 1, "point": None, "text": text}
    return {"instance": row["instance"], **question, **runs, **known}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A run that ended in a contradiction which is not in its report: two of its solvers disagreed."""
    text = f"{row['instance']}: the run of {method_name(row)} (seed {row['seed']}): {row['reason']}"
    question = dict.fromkeys(("layer", "neuron", "side", "by", "point"))
    runs = {"refuted": row["key"], "witnessed": row["key"]}
    return {"instance": row["instance"], **question, **runs, "questions": 1, "text": text}


def _pair(store: Store, liar: dict[str, Any], other: dict[str, Any], question: tuple[int, int]) -> dict[str, Any]:
    side, index = SIDES[question[0]], question[1]
    wrong, right = store.report(liar["key"]), store.report(other["key"])
    assert wrong is not None  # noqa: S101 - for the type checker; states come from reports
    assert right is not None  # noqa: S101
    denied, shown = wrong["neurons"][index], right["neurons"][index][side]
    by = denied[side]["by"]
    text = (
        f"{liar['instance']}: {by!r} in the run of {method_name(liar)} (seed {liar['seed']}) refuted that neuron "
        f"{denied['neuron']} of layer {denied['layer']} can be {side}, and a witness in the run of "
        f"{method_name(other)} (seed {other['seed']}) shows it"
    )
    runs = {"refuted": liar["key"], "witnessed": other["key"]}
    point = right["witnesses"][shown["witness"]]
    return {
        "instance": liar["instance"], "layer": denied["layer"], "neuron": denied["neuron"], "side": side, **runs,
        "by": by, "point": point, "text": text,
    }  # fmt: skip
