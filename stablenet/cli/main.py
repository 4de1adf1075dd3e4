"""The command line. Each command checks its arguments, calls one function of the package, and prints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablenet._version import __version__
from stablenet.cli import check as cli_check
from stablenet.cli import compare as cli_compare
from stablenet.cli import competition as cli_competition
from stablenet.cli import compress as cli_compress
from stablenet.cli import instances as cli_instances
from stablenet.cli import new as cli_new
from stablenet.cli import panels
from stablenet.cli import solve as cli_solve
from stablenet.cli.panels import Grouped, names_of
from stablenet.cli.streams import readerless
from stablenet.core.errors import ExitCode, InputError, StablenetError, UnknownNameError
from stablenet.core.files import OutputError
from stablenet.core.memory import limit_memory
from stablenet.core.signals import end_at_once, ignore_at_exit, install, is_interrupt
from stablenet.core.terminal import complain, console, open_closed_streams, say, say_json

if TYPE_CHECKING:
    from stablenet.core.options import Options
    from stablenet.core.registry import Broken
    from stablenet.report.report import Report

STARTED = time.time()

PARSER_INTERRUPTED = 130
"""The argument parser's return value for Ctrl-C; no command returns it."""

app = typer.Typer(
    name="stablenet",
    help="Find every stable neuron of a trained ReLU network, with evidence.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

NetworkFile = Annotated[str, typer.Argument(metavar="NET", help="ONNX file.")]
DomainSpec = Annotated[
    str, typer.Option("--domain", metavar="SPEC", help="box:LO:HI, ball:CENTER.npy:EPS[:LO:HI], or a VNN-LIB file.")
]
FormulationSpec = Annotated[
    str,
    typer.Option(help="Encoding of a ReLU; see `stablenet formulations`.", autocompletion=names_of("formulation")),
]
BoundsSpec = Annotated[
    str, typer.Option(help="Bounds on pre-activations; see `stablenet bounds`.", autocompletion=names_of("bounds"))
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def _root(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        say(__version__)
        raise typer.Exit


@app.command(cls=Grouped)
def find(
    net: NetworkFile,
    domain: DomainSpec,
    *,
    formulation: FormulationSpec = "bigm",
    bounds: BoundsSpec = "crown",
    solver: Annotated[
        str, typer.Option(help="MILP solver; see `stablenet solvers`.", autocompletion=names_of("solver"))
    ] = "highs",
    search: Annotated[
        str, typer.Option(help="How questions are closed; see `stablenet searches`.", autocompletion=names_of("search"))
    ] = "auto",
    samples: Annotated[str | None, typer.Option(metavar="FILE.npy|npz", help="Inputs to try first.")] = None,
    inject: Annotated[str, typer.Option(help="The solver's forward passes: relaxation, random, off.")] = "relaxation",
    removal: Annotated[str, typer.Option(help="How closed questions leave the MILP: resolve, callback.")] = "resolve",
    decide_by_bounds: Annotated[bool, typer.Option(help="Let bounds close questions and fix phases.")] = True,
    falsify: Annotated[bool, typer.Option(help="Seek witnesses by sampling and gradient.")] = True,
    start: Annotated[bool, typer.Option(help="Offer the solver a start solution.")] = True,
    tighten: Annotated[bool, typer.Option(help="Let what a search refutes tighten its later models.")] = True,
    certify: Annotated[
        str, typer.Option(metavar="on|off", help="Prove anew, without the solver, what a MILP solver refuted.")
    ] = "on",
    margin: Annotated[
        float | None, typer.Option(help="Relaxation of the MILP's rows; default: the solver's own; 0: as published.")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="REPORT.json", help="Start from a report.")] = None,
    proof: Annotated[str | None, typer.Option(metavar="FILE", help="File for certificates of refutations.")] = None,
    arithmetic: cli_compress.Arithmetic = "real",
    check_with: Annotated[str | None, typer.Option(help="Repeat each MILP refutation with this solver.")] = None,
    time_limit: Annotated[float | None, typer.Option(metavar="S", help="Seconds, start-up included.")] = None,
    memory_limit: cli_compress.MemoryLimit = None,
    threads: Annotated[int, typer.Option(help="Threads; 0: all cores.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes that branching is shared out among.")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler with such workers.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    permute: Annotated[int | None, typer.Option(help="Seed of a permutation of the MILP.")] = None,
    solver_log: Annotated[str | None, typer.Option(metavar="FILE", help="Where the solver's log goes.")] = None,
    solver_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option by the solver's own name; repeatable.")
    ] = None,
    solver_defaults: Annotated[
        bool, typer.Option("--solver-defaults", help="Leave the solver its own defaults; limits and the seed are set.")
    ] = False,
    early_stop: Annotated[
        bool, typer.Option(help="End solves at the first solution that shows a question, where the solver can.")
    ] = True,
    output: Annotated[str | None, typer.Option(metavar="REPORT.json", help="Report to write; -: print it.")] = None,
    page: Annotated[str | None, typer.Option(metavar="PAGE.html", help="Page of the report to write.")] = None,
) -> None:
    """Find every stable neuron of NET on a domain."""
    from stablenet.core.options import Options
    from stablenet.report.files import command_files

    options = Options(
        formulation=formulation,
        bounds=bounds,
        solver=solver,
        search=search,
        samples=samples,
        inject=inject,
        removal=removal,
        decide_by_bounds=decide_by_bounds,
        falsify=falsify,
        start=start,
        tighten=tighten,
        certify=_on_or_off("certify", certify),
        margin=margin,
        resume=resume,
        proof=proof,
        arithmetic=arithmetic,
        check_with=check_with,
        time_limit=time_limit,
        memory_limit=memory_limit,
        threads=threads,
        seed=seed,
        permute=permute,
        solver_log=solver_log,
        solver_defaults=solver_defaults,
        solver_options=tuple(solver_option or ()),
        early_stop=early_stop,
        workers=workers,
        scheduler=scheduler,
    )
    with command_files(
        {"--output": output, "--page": page, "--solver-log": solver_log, "--proof": proof},
        networks={"NET": net},
        domain=domain,
        reads={"--samples": samples, "--resume": resume},
    ):
        raise typer.Exit(_find(net, domain, options, output, page))


def _on_or_off(name: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise UnknownNameError(name, value, ("on", "off"))
    return value == "on"


def _find(net: str, domain: str, options: Options, output: str | None, page: str | None) -> int:
    from stablenet.cli.progress import Progress
    from stablenet.core.deadline import SearchStoppedError
    from stablenet.core.signals import Interrupts
    from stablenet.find.supervisor import supervise
    from stablenet.report.report import dumps

    with Interrupts():  # a second Ctrl-C must not lose what was found, until all is written
        with Progress(STARTED) as progress:
            try:
                finished = supervise(net, domain, options, started=STARTED, watch=progress)
            except KeyboardInterrupt:
                raise SearchStoppedError("interrupt, before the network was read; nothing is written") from None
        failed = _write(finished.report, output, page)
    for message in (finished.message, *failed):
        if message is not None:
            complain(message)
    try:
        with readerless():
            if output == "-":
                say_json(dumps(finished.report.data))
            else:
                from stablenet.cli.report_tables import render_summary

                render_summary(finished.report.data, console())
                if output is not None and not failed:
                    say(f"report: {output}")
    except OutputError as error:
        complain(str(error))
        failed.append(str(error))
    return finished.exit_code or (ExitCode.STOPPED if failed else ExitCode.DONE)


def _write(report: Report, output: str | None, page: str | None) -> list[str]:
    """Write report and page; returns messages about what could not be written, since the summary is shown even then."""
    failed: list[str] = []
    try:
        if output not in {None, "-"}:
            report.write(str(output))
    except InputError as error:
        failed.append(str(error))
    try:
        if page is not None:
            from stablenet.compare.publish.page import write_report_page

            write_report_page(report.data, page)
    except InputError as error:
        failed.append(str(error))
    return failed


@app.command()
def info(net: NetworkFile, *, memory_limit: cli_compress.MemoryLimit = None, as_json: AsJson = False) -> None:
    """Print what was understood of NET."""
    limit_memory(memory_limit)
    from stablenet.cli.info import describe, render
    from stablenet.onnx_io.reader import load_onnx

    description = describe(load_onnx(net))
    _print(description, as_json=as_json, render=render)


@app.command()
def export(
    net: NetworkFile,
    domain: DomainSpec,
    output: Annotated[str, typer.Option(metavar="MODEL.mps|lp", help="File to write; its suffix says the format.")],
    *,
    formulation: FormulationSpec = "bigm",
    bounds: BoundsSpec = "crown",
    margin: Annotated[float, typer.Option(help="Relaxation of the rows; 0: as published.")] = 0.0,
    decide_by_bounds: Annotated[bool, typer.Option(help="Let bounds fix phases.")] = True,
    memory_limit: cli_compress.MemoryLimit = None,
) -> None:
    """Write the MILP that asks all questions which the bounds leave open."""
    limit_memory(memory_limit)
    from stablenet.bounds import run
    from stablenet.domain.spec import parse_domain
    from stablenet.onnx_io.reader import load_onnx
    from stablenet.pyomo_model.export import check_suffix
    from stablenet.pyomo_model.export import export as write
    from stablenet.report.files import command_files

    with command_files({"--output": output}, networks={"NET": net}, domain=domain):
        check_suffix(Path(output))
        network = load_onnx(net)
        region = parse_domain(domain, network.n_inputs)
        known = run(bounds, network, region.parts[0])
        milp = write(network, region, known, formulation, output, margin=margin, decide=decide_by_bounds)
    say(
        f"{output}: {milp.n_rows} rows, {milp.n_columns} columns ({milp.n_binaries} binary), {milp.n_nonzeros} nonzeros"
    )


@app.command()
def formulations(*, as_json: AsJson = False) -> None:
    """List the formulations: what they need, and the paper."""
    from stablenet.cli.lists import formulations_data, render_formulations

    _print(formulations_data(), as_json=as_json, render=render_formulations)


@app.command()
def bounds(*, as_json: AsJson = False) -> None:
    """List the bound methods."""
    from stablenet.bounds import BoundMethod, registry
    from stablenet.core.registry import listed

    def row(cls: type[BoundMethod]) -> dict[str, Any]:
        return {
            "name": cls.name,
            "title": cls.title,
            "rigorous": cls.rigorous,
            "needs": ", ".join(sorted(capability.value for capability in registry.get(cls.name).requires)),
            "paper": cls.paper,
        }

    _table(*listed(registry, row), as_json=as_json)


@app.command()
def searches(*, as_json: AsJson = False) -> None:
    """List the searches."""
    from stablenet.core.registry import listed
    from stablenet.search.base import registry

    _table(*listed(registry, lambda cls: {"name": cls.name, "title": cls.title, "paper": cls.paper}), as_json=as_json)


@app.command()
def solvers(*, as_json: AsJson = False) -> None:
    """List the solvers: installed or how to install, licence, what they can do."""
    from stablenet.cli.lists import render_solvers, solvers_data

    _print(solvers_data(), as_json=as_json, render=render_solvers)


app.command(cls=Grouped)(cli_compress.compress)
app.command(cls=Grouped)(cli_compress.verify)
app.command()(cli_competition.run_instance)
for command in (cli_check.check, cli_compare.compare, cli_compare.page, cli_solve.solve, cli_new.new):
    app.command()(command)
app.add_typer(cli_instances.app, name="instances")


def _print(data: Any, *, as_json: bool, render: Callable[[Any, Any], None]) -> None:
    if as_json:
        say_json(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        return
    render(data, console())
    entries = data.get("broken", []) if isinstance(data, dict) else data
    for row in entries:
        if "broken" in row:
            from stablenet.core.registry import Broken

            say(str(Broken(*(row[key] for key in ("kind", "name", "distribution", "entry_point", "cause")))))


def _table(rows: list[dict[str, Any]], broken: list[Broken], *, as_json: bool) -> None:
    from stablenet.cli.lists import render_rows

    _print(rows + [entry.to_json() for entry in broken], as_json=as_json, render=render_rows)


def main() -> None:
    """Entry point of the ``stablenet`` command."""
    open_closed_streams()
    if panels.COMPLETION in os.environ:  # a shell requests completions; nothing else may be printed
        app(prog_name="stablenet")
    install()
    ignore_at_exit()
    limit_memory()
    try:
        code = _run(sys.argv[1:] or ["--help"])
    except KeyboardInterrupt:
        complain("interrupted before it was done; no file is half written")
        code = ExitCode.STOPPED
    end_at_once("", code, grace=2.0)  # no signal may interrupt the interpreter's exit, nor may it last
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command; prints one line about what went wrong, and returns the exit code."""
    code: Any = 0
    try:
        with readerless():
            code = app(arguments, standalone_mode=False)
    except StablenetError as error:
        complain(str(error))
        return int(getattr(error, "code", error.exit_code))
    except MemoryError:
        complain("the memory limit was met; --memory-limit MB raises it")
        return ExitCode.STOPPED
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        complain(f"{where}{error.strerror or error}")
        return ExitCode.INPUT
    except Exception as error:
        # Usage errors of the argument parser (its classes moved between versions): one line, exit code 2.
        if hasattr(error, "format_message"):
            complain(error.format_message())
            return ExitCode.INPUT
        if type(error).__name__ == "Abort" or is_interrupt(error):  # the argument parser turns Ctrl-C into the former
            raise KeyboardInterrupt from None
        raise
    if code == PARSER_INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
