"""The command ``run-instance``: one instance as VNN-COMP's scripts pass it, and a result file as they expect it.

The first line of the result is ``sat``, ``unsat``, ``unknown``, ``timeout`` or ``error``; after ``sat`` comes the input
with its outputs: for files of version 1 as ``((X_0 0.5) … (Y_0 1.0))``, for version 2 in the format that the standard
gives for solvers (a line with name, type and shape of each tensor, then its entries).
"""

from __future__ import annotations

import ast
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stablenet.cli.compress import STARTED, MemoryLimit
from stablenet.core.errors import ExitCode, InputError, StablenetError, UnknownNameError
from stablenet.core.files import atomic_path
from stablenet.core.memory import limit_memory
from stablenet.core.terminal import complain, say

if TYPE_CHECKING:
    from stablenet.core.network import Network
    from stablenet.domain.vnnlib_query import Query
    from stablenet.equivalence.hunt import Witness

LONGEST = 10_000
"""Longest text of a list of networks."""


def run_instance(
    nets: Annotated[
        str,
        typer.Argument(metavar="ONNX", help="ONNX file, or [('f', 'a.onnx'), ('g', 'b.onnx')] as instances.csv has."),
    ],
    spec: Annotated[str, typer.Argument(metavar="SPEC.vnnlib", help="VNN-LIB file, version 1 or 2.")],
    result: Annotated[str | None, typer.Argument(metavar="RESULT.txt", help="File to write.")] = None,
    timeout: Annotated[float | None, typer.Argument(metavar="S", help="Seconds, start-up included.")] = None,
    *,
    reading: Annotated[
        str, typer.Option(help="Of a band joined by `and`: written, or meant (see `verify`).")
    ] = "written",
    only_read: Annotated[bool, typer.Option("--only-read", help="Read the files, say what is asked, and end.")] = False,
    memory_limit: MemoryLimit = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Run one instance of the VNN competition: seek an input at which all that SPEC asserts holds, or a proof that
    there is none.

    Exit code 0: the result file says sat or unsat; 3: it says unknown or timeout; 2: error.
    """
    from stablenet.report.files import command_files

    limit_memory(memory_limit)
    if result is None and not only_read:
        raise InputError("RESULT.txt is missing: the file that the answer goes to")
    paths = network_paths(nets, Path(spec))
    sources = {f"network {name}": str(path) for name, path in paths.items()}
    with command_files({"RESULT.txt": result}, networks=sources, domain=spec):
        try:
            code, lines = _run(list(paths.items()), spec, reading, timeout, seed, only_read=only_read)
        except StablenetError:
            if result is not None:
                _write(result, ["error"])
            raise
        if result is not None and not only_read:
            _write(result, lines)
    raise typer.Exit(code)


def _write(result: str, lines: Sequence[str]) -> None:
    with atomic_path(Path(result)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def network_paths(text: str, spec: Path) -> dict[str, Path]:
    """The networks' files by name; one that is given alone has the name ``""``.

    Relative names are looked for here, then in the folder above that of ``spec``, as benchmarks are laid out.
    """
    found: dict[str, Path] = {}
    if text.lstrip().startswith("["):
        try:
            pairs = ast.literal_eval(text.strip()) if len(text) <= LONGEST else None
            if not isinstance(pairs, list) or not pairs:
                raise ValueError
            for name, path in pairs:
                if not isinstance(name, str) or not isinstance(path, str) or name in found:
                    raise ValueError
                found[name] = Path(path)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise InputError("ONNX: a file, or a list such as [('f', 'a.onnx'), ('g', 'b.onnx')] is expected") from None
    else:
        found[""] = Path(text)
    above = spec.resolve().parent.parent
    return {
        name: above / path if not path.is_absolute() and not path.exists() and (above / path).exists() else path
        for name, path in found.items()
    }


def _run(
    paths: list[tuple[str, Path]], spec: str, reading: str, timeout: float | None, seed: int, *, only_read: bool
) -> tuple[int, list[str]]:
    """Exit code and lines of the result file."""
    from stablenet.domain.vnnlib_query import read_query
    from stablenet.equivalence.decide import decide
    from stablenet.equivalence.questions import READINGS, question
    from stablenet.onnx_io.reader import load_onnx

    if reading not in READINGS:
        raise UnknownNameError("reading", reading, READINGS)
    query = read_query(spec)
    loaded: dict[Path, Network] = {}
    for _, path in paths:
        loaded[path] = loaded[path] if path in loaded else load_onnx(path)
    networks = [loaded[path] for path in _in_order(paths, query)]
    asked = question(query, networks, "meant" if reading == "meant" else "written")
    say(asked.words)
    for note in asked.notes:
        complain(note)
    if only_read:
        return ExitCode.DONE, []
    # A second or less is kept for the end of the process: the result file must be written in time.
    left = None if timeout is None else max(timeout - (time.time() - STARTED) - min(1.0, 0.05 * timeout), 0.01)
    found = decide(asked.a, asked.b, asked.cases, words=asked.holds, time_limit=left, seed=seed)
    for note in found.notes:
        complain(note)
    verdict = {"violated": "sat", "holds": "unsat"}.get(found.verdict)
    if verdict is None:
        verdict = "timeout" if found.by == "time limit" else "unknown"
    say(f"{verdict} ({found.by})")
    lines = [verdict, *([] if found.witness is None else assignment(query, found.witness))]
    return ExitCode.STOPPED if found.verdict == "undecided" else ExitCode.DONE, lines


def _in_order(paths: list[tuple[str, Path]], query: Query) -> list[Path]:
    """The files in the order in which the networks are declared."""
    given = dict(paths)
    declared = [network.name for network in query.networks]
    if list(given) == [""]:
        return [given[""]]
    unknown = [name for name in given if name not in declared]
    # A network that is equal to another needs no file of its own.
    missing = [n.name for n in query.networks if n.name not in given and not (n.equal and n.like in given)]
    if unknown or missing:
        what = f"{unknown[0]} is not declared" if unknown else f"no file is given for {missing[0]}"
        raise InputError(f"{query.file}: {what}; it declares {', '.join(declared) or 'one network without a name'}")
    return [given[n.name if n.name in given else str(n.like)] for n in query.networks]


def assignment(query: Query, witness: Witness) -> list[str]:
    """The input and the outputs, as lines of a result file."""
    outputs = [[float(v) for v in values] for values in (witness.a, witness.b)]
    if not query.networks:
        values = [(f"X_{i}", v) for i, v in enumerate(witness.point.tolist())]
        values += [(f"Y_{j}", v) for j, v in enumerate(outputs[0][: query.n_outputs[0]])]
        lines = [f"({name} {value!r})" for name, value in values]
        return ["(" + lines[0], *(f" {line}" for line in lines[1:-1]), f" {lines[-1]})"]
    lines = []
    for k, network in enumerate(query.networks):
        tensors = ((network.tensor("X"), witness.point[query.places[k]].tolist()), (network.tensor("Y"), outputs[k]))
        for tensor, numbers in tensors:
            lines.append(f"{tensor.name} {tensor.dtype} [{','.join(map(str, tensor.shape))}]")
            lines += [repr(float(number)) for number in numbers[: tensor.size]]
    return lines
