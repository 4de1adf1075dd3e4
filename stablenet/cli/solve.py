"""The command ``solve``: MPS files with any of the solvers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stablenet.core.errors import ExitCode, InputError
from stablenet.core.terminal import say


def solve(
    paths: Annotated[list[str], typer.Argument(metavar="FOLDER|FILE.mps...", help="MPS files, or folders of them.")],
    *,
    solver: Annotated[list[str], typer.Option(help="Solver; repeatable. See `stablenet solvers`.")] = ["highs"],  # noqa: B006
    time_limit: Annotated[float, typer.Option(metavar="S", help="Seconds for each solve.")] = 600.0,
    cpu_limit: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds of processor time for each solve (not of cbc).")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Feasibility and integrality, with the settings of `find`, not the defaults.")
    ] = None,
    memory_limit: Annotated[float | None, typer.Option(metavar="MB", help="Megabytes for each solve.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each solve.")] = 1,
    seed: Annotated[list[int], typer.Option(help="Seed of the solver; repeatable.")] = [0],  # noqa: B006
    solver_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option by the solver's own name; repeatable.")
    ] = None,
    solutions: Annotated[str | None, typer.Option(metavar="DIR", help="Folder for solution files.")] = None,
    output: Annotated[str | None, typer.Option(metavar="ROWS.csv", help="Table to write.")] = None,
    here: Annotated[bool, typer.Option("--here", hidden=True)] = False,
) -> None:
    """Solve MPS files, each solver at its own defaults, and check every solution.

    Exit code 3 where a solve failed or a solution is none.
    """
    from stablenet.core.files import Named, guarded, make_folder, write_text
    from stablenet.instances.solve import Request, model_files, solve_all, solve_file, write_rows

    if solver_option and len(solver) > 1:
        raise InputError("--solver-option has the names of one solver: give one --solver")
    requests = [
        Request(name, time_limit, one, threads, memory_limit, tuple(solver_option or ()), cpu_limit, tolerance)
        for name in solver
        for one in seed
    ]
    if here:  # one solve in a process of its own
        row = solve_file(Path(paths[0]), requests[0], None if solutions is None else Path(solutions))
        write_text(Path(str(output)), json.dumps(row))
        return
    files = model_files([Path(path) for path in paths])
    if solutions is not None:
        make_folder(Path(solutions))
    rows: list[dict[str, Any]] = []
    writes = [] if output is None else [Named("--output", Path(output))]
    with guarded([Named(file.name, file) for file in files], writes):
        try:
            for row in solve_all(files, requests, None if solutions is None else Path(solutions)):
                rows.append(row)
                say(_words(row))
        finally:  # also of what an interrupt cut short
            if output is not None:
                write_rows(rows, Path(output))
    bad = [row for row in rows if row["status"] == "error" or str(row.get("checked", "")).startswith("violated")]
    raise typer.Exit(ExitCode.STOPPED if bad else ExitCode.DONE)


def _words(row: dict[str, Any]) -> str:
    parts = [row["file"], row["solver"], f"seed {row['seed']}", row["status"]]
    numbers = ("objective", "dual_bound")
    parts += [f"{name.replace('_', ' ')} {row[name]:.9g}" for name in numbers if row.get(name) is not None]
    if row.get("wall_s") is not None:
        parts.append(f"{row['wall_s']:.1f} s")
    parts += [str(row[name]) for name in ("checked", "error") if row.get(name)]
    return ", ".join(parts)
