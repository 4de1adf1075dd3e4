"""The commands `compare` and `page`: thin, like those of `stablenet.cli.main`, which registers them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablenet.core.errors import ExitCode, InputError
from stablenet.core.inputs import read_text_input
from stablenet.core.terminal import say

if TYPE_CHECKING:
    from stablenet.compare.plan import Plan
    from stablenet.compare.run.runner import Sweep
    from stablenet.compare.run.workers import Executor


def compare(
    grid: Annotated[str, typer.Argument(metavar="GRID.toml", help="Grid of runs; see docs/comparing.md.")],
    *,
    output: Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the sweep.")] = None,
    workers: Annotated[int | None, typer.Option(help="Runs at a time, each on its own core. Default: all.")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler to run on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in DIR; run only new rows.")] = False,
    retry: Annotated[str | None, typer.Option(metavar="OUTCOME,...", help="With --resume: run these again.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the grid, say what would be run.")] = False,
    export_models: Annotated[str | None, typer.Option(metavar="DIR", help="Write every MILP as MPS instead.")] = None,
) -> None:
    """Run a grid of comparisons; exit code 4 if two runs contradict each other."""
    from stablenet.cli.files import guarded_sweep
    from stablenet.compare.grid import read_grid
    from stablenet.compare.plan import plan as make_plan

    again = _outcomes(retry)
    if again and not resume:
        raise InputError("--retry needs --resume")
    chosen = make_plan(read_grid(grid))
    _print_plan(chosen)
    if dry_run:
        _print_estimate(chosen, output, workers)
        return
    if export_models is not None:
        from stablenet.compare.publish.models import export_models as write

        with guarded_sweep(chosen, None):
            count = write(chosen, Path(export_models))
        say(f"{export_models}: {count} models and manifest.json")
        return
    if output is None:
        raise InputError("--output DIR is missing: the folder for the sweep")
    with guarded_sweep(chosen, Path(output)):
        executor = _executor(chosen, workers, scheduler)
        raise typer.Exit(_sweep(chosen, Path(output), executor, resume=resume, retry=again))


def _outcomes(retry: str | None) -> tuple[str, ...]:
    from stablenet.compare.rows import OUTCOMES
    from stablenet.core.errors import UnknownNameError

    names = tuple(retry.split(",")) if retry else ()
    for name in names:
        if name not in OUTCOMES:
            raise UnknownNameError("outcome", name, OUTCOMES)
    return names


def _executor(plan: Plan, workers: int | None, scheduler: str | None) -> Executor:
    if scheduler is not None:
        from stablenet.compare.run.cluster import Cluster

        if workers is not None:
            raise InputError("--workers is for this machine, --scheduler for a cluster: give one")
        cluster: Executor = Cluster(scheduler)
        return cluster
    from stablenet.compare.run.workers import LocalWorkers, core_slots

    return LocalWorkers(core_slots(workers, plan.grid.threads))


PLURALS = {"bounds": "bounds", "search": "searches", "solver_options": "sets of solver options"}


def _print_plan(plan: Plan) -> None:
    from stablenet.compare.rows import METHOD

    grid = plan.grid
    values: dict[str, set[Any]] = {
        "instance": {run.instance.name for run in plan.runs},
        **{axis: {run.axes[axis] for run in plan.runs} for axis in METHOD},
        "seed": {run.seed for run in plan.runs},
    }
    parts = [
        f"{len(found)} {axis.replace('_', ' ') if len(found) == 1 else PLURALS.get(axis, axis + 's')}"
        for axis, found in values.items()
    ]
    say(f"{grid.name}: {len(plan.runs)} {'run' if len(plan.runs) == 1 else 'runs'} ({', '.join(parts)})")
    for item in plan.unsupported:
        say(f"left out: {item.formulation} x {item.solver} x {item.step}: {item.reason}", error=True)


def _print_estimate(plan: Plan, output: str | None, workers: int | None) -> None:
    from stablenet.compare.run.runner import remaining
    from stablenet.compare.run.workers import core_slots

    count, mean = (len(plan.runs), None) if output is None else remaining(plan, Path(output))
    slots = len(core_slots(workers, plan.grid.threads))
    most = count * plan.grid.time_limit / slots
    likely = "" if mean is None else f", about {_clock(count * mean / slots)} at the mean of the rows there are"
    say(
        f"to run: {count}, {slots} at a time; at most {_clock(most)} if every run takes its "
        f"{plan.grid.time_limit:g} s{likely}; before them {len(plan.instances)} frozen sets"
    )


def _clock(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _sweep(plan: Plan, folder: Path, executor: Executor, *, resume: bool, retry: tuple[str, ...]) -> int:
    from stablenet.compare.run.runner import sweep
    from stablenet.compare.store import Store

    outcomes: Counter[str] = Counter()

    def note(row: dict[str, Any], number: int, total: int) -> None:
        outcomes[row["outcome"]] += 1
        axes = ("instance", "formulation", "bounds", "search", "solver", "step", "solver_options")
        names = " ".join(str(row[axis]) for axis in axes if row[axis] != "none")
        seconds = "" if row.get("wall_s") is None else f" {row['wall_s']:.1f} s"
        reason = f": {row['reason']}" if row["reason"] else ""
        say(f"[{number}/{total}] {names} seed {row['seed']}: {row['outcome']}{seconds}{reason}")

    interrupted = False
    result: Sweep | None = None
    try:
        result = sweep(plan, folder, executor, resume=resume, retry=retry, note=note)
    except KeyboardInterrupt:
        interrupted = True
        say("stablenet: interrupted; the rows that are there are kept, --resume goes on", error=True)
    with Store(folder) as store:
        code = _conclude(store)
    say(f"{folder}: {', '.join(f'{n} {name}' for name, n in sorted(outcomes.items())) or 'nothing new'}")
    for name in result.failed_frozen if result is not None else ():
        say(f"stablenet: instance {name!r} has no frozen set; its rows are lost", error=True)
    return code or (ExitCode.STOPPED if interrupted or (result is not None and result.failed_frozen) else ExitCode.DONE)


def _conclude(store: Any) -> int:
    """Print contradictions; 4 if there is one."""
    from stablenet.compare.contradictions import find_contradictions, wrong_keys

    found = find_contradictions(store)
    store.mark_wrong(wrong_keys(found))
    store.set_meta("contradictions", json.dumps(found))
    for item in found:
        say(f"contradiction: {item['text']}", error=True)
    return ExitCode.CONTRADICTION if found else ExitCode.DONE


def page(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a sweep.")],
    *,
    output: Annotated[str | None, typer.Option(metavar="PAGE.html", help="Default: page.html in DIR.")] = None,
    figures: Annotated[bool, typer.Option(help="Write figures (SVG) and tables (CSV, LaTeX, Parquet) too.")] = True,
    results: Annotated[
        str | None, typer.Option(metavar="FILE.md", help="Write the tables as Markdown, figures in a folder beside it.")
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="FILE", help="With --results: text to stand before them.")] = None,
) -> None:
    """Write the page of a sweep: one HTML file, with figures and tables beside it."""
    from stablenet.cli.files import store_files
    from stablenet.compare.publish.markdown import write_results
    from stablenet.compare.publish.page import sweep_page
    from stablenet.compare.publish.tables import write_all
    from stablenet.compare.store import Store
    from stablenet.core.files import write_text
    from stablenet.report.files import command_files

    target = Path(folder) / "page.html" if output is None else Path(output)
    writes = {"the page": str(target), "--results": results}
    with Store(folder) as store, command_files(writes, reads={**store_files(store), "--text": text}):
        code = _conclude(store)
        write_text(target, sweep_page(store))
        say(f"page: {target}")
        if figures:
            for path in write_all(store, Path(folder)):
                say(f"  {path}")
        if results is not None:
            for made in write_results(store, Path(results), "" if text is None else read_text_input(text)):
                say(f"  {made}")
    sys.stdout.flush()
    raise typer.Exit(code)
