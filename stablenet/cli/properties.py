"""Questions of ``verify`` beside a tolerance: properties, norms, and what a VNN-LIB file of two networks asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stablenet.core.errors import ExitCode, InputError, UnknownNameError
from stablenet.core.terminal import complain, say, say_json

if TYPE_CHECKING:
    from stablenet.equivalence.decide import Decision
    from stablenet.equivalence.questions import Question

CODES = {"holds": ExitCode.DONE, "violated": ExitCode.CONTRADICTION, "undecided": ExitCode.STOPPED}


@dataclass(frozen=True)
class Asked:
    """What the command line says of the question; None where an option was not given."""

    domain: str
    property: str | None
    norm: str | None
    tolerance: float | None
    reading: str | None


def own_question(asked: Asked) -> bool:
    """Whether the question is one for `answer`, and not the plain comparison with a tolerance.

    That is so with ``--property`` or ``--norm``, and for a file that declares several networks, if no tolerance is
    given: then the file itself says what is asked.
    """
    from stablenet.equivalence.questions import READINGS

    if asked.reading is not None and asked.reading not in READINGS:
        raise UnknownNameError("reading", asked.reading, READINGS)
    if asked.property is not None or asked.norm is not None:
        if asked.reading is not None:
            raise InputError("--reading is of a file's own question, which --property and --norm replace")
        return not (asked.property in {None, "within"} and asked.norm in {None, "linf"})
    by_file = asked.tolerance is None and _names_networks(asked.domain)
    if asked.reading is not None and not by_file:
        raise InputError("--reading is of a VNN-LIB file of two networks as --domain, without --tolerance")
    return by_file


def _names_networks(domain: str) -> bool:
    from stablenet.domain.spec import is_vnnlib
    from stablenet.domain.vnnlib import Reader
    from stablenet.domain.vnnlib_text import read_text

    if not is_vnnlib(domain):
        return False
    reader = Reader(read_text(Path(domain)), domain)
    reader.asserted()
    return len(reader.names.networks) > 1


def answer(
    a: str,
    b: str,
    asked: Asked,
    *,
    time_limit: float | None,
    seed: int,
    steps: Sequence[str] | None,
) -> tuple[Decision, Question | None]:
    """Decide; returns the answer and the file's question as it was understood, if it asked. Raises `InputError`."""
    from stablenet.domain.vnnlib_query import read_query
    from stablenet.equivalence.decide import STEPS, decide
    from stablenet.equivalence.properties import verify_property
    from stablenet.equivalence.questions import question
    from stablenet.onnx_io.reader import load_onnx

    chosen = STEPS if steps is None else steps
    if asked.property is None and asked.norm is None:
        written = asked.reading == "written"
        found = question(read_query(asked.domain), [load_onnx(a), load_onnx(b)], "written" if written else "meant")
        decision = decide(
            found.a, found.b, found.cases, words=found.holds, time_limit=time_limit, seed=seed, steps=chosen
        )
        return decision, found
    name = asked.property or "within"
    if asked.tolerance is not None and name != "within":
        raise InputError(f"--tolerance is of the property within; the margin of {name} is written {name}:MARGIN")
    decision = verify_property(
        a,
        b,
        asked.domain,
        name,
        tolerance=1e-5 if asked.tolerance is None else asked.tolerance,
        norm=asked.norm or "linf",
        time_limit=time_limit,
        seed=seed,
        steps=chosen,
    )
    return decision, None


def show(decision: Decision, found: Question | None, output: str | None, *, as_json: bool) -> int:
    """Print the answer, and write the counterexample to ``output``; returns the exit code."""
    failed = (
        None if output is None else write_point(output, None if decision.witness is None else decision.witness.point)
    )
    for note in (*(found.notes if found is not None else ()), *decision.notes, *(() if failed is None else (failed,))):
        complain(note)
    if as_json:
        data: dict[str, Any] = decision.to_json()
        if found is not None:
            data |= {"read": found.words, "meaning": found.violated if decision.witness else found.holds}
        say_json(json.dumps(data, ensure_ascii=False) + "\n")
    else:
        if found is not None:
            say(found.words)
        _print(decision, found, output if failed is None else None)
    return ExitCode.STOPPED if failed is not None else CODES[decision.verdict]


def _print(decision: Decision, found: Question | None, output: str | None) -> None:
    took = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in decision.seconds.items())
    if decision.witness is not None:
        violated = f"it is not so that {decision.words}" if found is None else found.violated
        say(f"{violated} (shown in exact arithmetic, by {decision.by})")
        say(f"A(x) = {json.dumps([float(v) for v in decision.witness.a])}")
        say(f"B(x) = {json.dumps([float(v) for v in decision.witness.b])}")
        say(f"at x = {json.dumps(decision.witness.point.tolist())}" if output is None else f"at x in {output}")
    elif decision.verdict == "holds":
        say(f"holds: {decision.words} (rigorous, by {decision.by})")
    else:
        say(f"not decided ({decision.by}): {decision.words}; {decision.left:,} boxes left")
    say(f"{decision.boxes:,} boxes; {took}")


def write_point(output: str, point: np.ndarray[Any, Any] | None) -> str | None:
    """Write a counterexample, if there is one; returns why it could not be written: it is shown all the same."""
    from stablenet.core.files import OutputError, atomic_path

    if point is None:
        return None
    try:
        with atomic_path(Path(output)) as temporary, temporary.open("wb") as file:
            np.save(file, point)
    except OutputError as error:
        return str(error)
    return None
