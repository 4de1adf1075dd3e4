"""The commands ``instances list``, ``build`` and ``check``: a library of MILPs for developers of solvers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablenet.core.errors import ContradictionError, InputError
from stablenet.core.terminal import console, say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stablenet.instances.check import Finding

INCOMPLETE = 3
"""Exit code where an instance could not be built, or a solver gave no answer."""

app = typer.Typer(help="MILP instances from trained networks, for developers of solvers.", rich_markup_mode=None)

Sets = Annotated[
    list[str] | None, typer.Option("--set", help="library, public or regression; repeatable. Default: all.")
]
Only = Annotated[str | None, typer.Option(metavar="PATTERN", help="Names to take, as in a shell: 'mnist-*'.")]
Networks = Annotated[str | None, typer.Option(metavar="DIR", help="Folder with public networks (set public).")]


@app.command("list")
def list_instances(
    *,
    sets: Sets = None,
    only: Only = None,
    status: Annotated[str | None, typer.Option(help="easy, hard, open or unmeasured.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the instances: sizes, best known value and bound, status."""
    from stablenet.cli.lists import render_rows
    from stablenet.core.errors import UnknownNameError
    from stablenet.instances.manifest import STATUSES, chosen, load

    if status is not None and status not in STATUSES:
        raise UnknownNameError("status", status, STATUSES)
    entries = [e for e in chosen(load(), sets or (), only).values() if status in (None, e.status)]
    if as_json:
        say_json(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")
        return
    rows = [
        {
            "name": e.name,
            "size": f"{e.rows} x {e.columns}, {e.binaries} int",
            "value": _number(e.primal),
            "bound": _number(e.dual),
            "status": e.status,
        }
        for e in entries
    ]
    if rows:
        render_rows(rows, console())
    counts = ", ".join(f"{sum(e.status == word for e in entries)} {word}" for word in STATUSES)
    say(f"{len(rows)} instances: {counts}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


@app.command("build")
def build_instances(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder for the models; is made.")],
    *,
    sets: Sets = None,
    only: Only = None,
    networks: Networks = None,
) -> None:
    """Train the networks and write the models, solutions and the manifest.

    Exit code 3 if one could not be built, 4 if one is another model than the package's manifest says.
    """
    from stablenet.core.files import make_folder
    from stablenet.instances.library import build_all, names
    from stablenet.instances.manifest import FILE, SETS, Entry, chosen, load, save

    known = load()
    wanted_sets = tuple(sets or ("library", "regression", *(["public"] if networks is not None else [])))
    if unknown := set(wanted_sets) - set(SETS):
        chosen(known, unknown)  # says which there are
    wanted = names(wanted_sets)
    if only is not None:
        from fnmatch import fnmatchcase

        wanted = {name: which for name, which in wanted.items() if fnmatchcase(name, only)}
    if not wanted:
        raise InputError(f"no instance of {', '.join(wanted_sets)} matches {only!r}")
    make_folder(Path(folder))
    there = load(Path(folder)) if (Path(folder) / FILE).is_file() else {}
    failed, other = [], []
    for name, built in build_all(wanted, Path(folder), known, None if networks is None else Path(networks)):
        if not isinstance(built, Entry):
            failed.append(name)
            say(f"{name}: {built}")
            continue
        there[name] = built
        save(there.values(), Path(folder))
        differs = name in known and known[name].sha256 != built.sha256
        if differs:
            other.append(name)
        say(f"{name}: {built.rows} rows, {built.columns} columns ({built.binaries} integer), {built.nonzeros} nonzeros"
            f"{'; ANOTHER MODEL than the manifest says' if differs else ''}")  # fmt: skip
    if other:
        raise ContradictionError(f"{len(other)} models differ from the package's manifest: {', '.join(other)}")
    raise typer.Exit(INCOMPLETE if failed else 0)


@app.command("check")
def check_instances(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder that `instances build` wrote.")],
    *,
    sets: Sets = None,
    only: Only = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Also build each anew, and compare digests.")] = False,
    networks: Networks = None,
    backend: Annotated[
        str | None, typer.Option(metavar="SOLVER", help="Hold a solver's answers against what is known.")
    ] = None,
    time_limit: Annotated[float, typer.Option(metavar="S", help="Seconds for each solve.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the solver.")] = 0,
    tolerance: Annotated[
        float | None, typer.Option(help="Feasibility and integrality, with the settings of `find`, not the defaults.")
    ] = None,
    solver_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option by the solver's own name; repeatable.")
    ] = None,
) -> None:
    """Check digests, sizes, solutions and bounds; with --backend a solver's answers.

    Exit code 4 if something contradicts what is known, 3 if something is missing or a solver gave no answer.
    """
    from stablenet.instances.check import check_answers, check_entry, rebuilt
    from stablenet.instances.manifest import chosen, load
    from stablenet.instances.solve import Request

    entries = chosen(load(Path(folder)), sets or (), only)

    def findings() -> Iterable[Finding]:
        if backend is not None:
            request = Request(backend, time_limit, seed, options=tuple(solver_option or ()), tolerance=tolerance)
            yield from check_answers(entries, Path(folder), request)
            return
        for entry in entries.values():
            yield check_entry(entry, Path(folder))
            if rebuild:
                yield rebuilt(entry, None if networks is None else Path(networks))

    found: list[Any] = []
    for one in findings():
        found.append(one)
        say(f"{one.name}: {'WRONG: ' if one.wrong else ''}{one.text}")
    wrong = [one.name for one in found if one.wrong]
    if wrong:
        raise ContradictionError(f"{len(wrong)} of {len(found)} contradict what is known: {', '.join(wrong)}")
    raise typer.Exit(INCOMPLETE if any(one.failed for one in found) else 0)
