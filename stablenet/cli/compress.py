"""The commands ``compress`` and ``verify``: thin, registered in `stablenet.cli.main`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablenet.core.errors import ExitCode, InputError
from stablenet.core.memory import limit_memory
from stablenet.core.terminal import complain, console, say, say_json

if TYPE_CHECKING:
    from stablenet.core.options import Options
    from stablenet.equivalence.verification import Verification
    from stablenet.report.report import Report

STARTED = time.time()

MemoryLimit = Annotated[
    float | None,
    typer.Option(metavar="MB", help="Megabytes of address space. Default: 75 % of the memory, at least 4096."),
]

Arithmetic = Annotated[
    str, typer.Option(help="What verdicts speak of: real, or float32 for every evaluation in float32 as well.")
]

Spec = typer.Option("--domain", metavar="SPEC", help="box:LO:HI, ball:CENTER.npy:EPS[:LO:HI], or a VNN-LIB file.")


def compress(
    net: Annotated[str, typer.Argument(metavar="NET", help="ONNX file.")],
    *,
    output: Annotated[str, typer.Option(metavar="SMALL.onnx", help="File to write.")],
    report: Annotated[str | None, typer.Option(metavar="REPORT.json", help="Report of `stablenet find`.")] = None,
    domain: Annotated[str | None, Spec] = None,
    dtype: Annotated[str | None, typer.Option(help="Type of the weights: float32, float64. Default: NET's.")] = None,
    merge: Annotated[bool, typer.Option(help="Merge and fold active neurons; without, removal alone: exact.")] = True,
    dense: Annotated[
        bool, typer.Option("--dense", help="Convolutions as Gemm wherever that can be; else where it is smaller.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="T", help="Bound up to which neurons are merged. Default: 1e-3 of the largest output."),
    ] = None,
    samples: Annotated[str | None, typer.Option(metavar="FILE.npy|npz", help="Further inputs to check on.")] = None,
    check: Annotated[int, typer.Option(help="Random points and vertices to check on.")] = 1000,
    formulation: Annotated[str, typer.Option(help="Without a report: as in `find`.")] = "bigm",
    bounds: Annotated[str, typer.Option(help="Without a report: as in `find`.")] = "crown",
    solver: Annotated[str, typer.Option(help="Without a report: as in `find`.")] = "highs",
    search: Annotated[str, typer.Option(help="Without a report: as in `find`.")] = "auto",
    arithmetic: Arithmetic = "real",
    time_limit: Annotated[float | None, typer.Option(metavar="S", help="Seconds for finding stable neurons.")] = None,
    memory_limit: MemoryLimit = None,
    threads: Annotated[int, typer.Option(help="Threads; 0: all cores.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a smaller network with the same function on a domain.

    From a report, or from a search for stable neurons on the domain, limited as `find` is.
    """
    from stablenet.core.options import Options
    from stablenet.report.files import command_files

    options = Options(
        formulation=formulation,
        bounds=bounds,
        solver=solver,
        search=search,
        samples=samples,
        arithmetic=arithmetic,
        time_limit=time_limit,
        memory_limit=memory_limit,
        threads=threads,
        seed=seed,
    )
    limit_memory(options.memory_limit)
    keywords = {
        "dtype": dtype,
        "merge": merge,
        "dense": dense,
        "tolerance": tolerance,
        "check": check,
        "seed": seed,
        "arithmetic": arithmetic,
    }
    with command_files(
        {"--output": output}, networks={"NET": net}, domain=domain, reads={"--report": report, "--samples": samples}
    ):
        path = Path(output)
        raise typer.Exit(_compress(net, path, report, domain, options=options, keywords=keywords, as_json=as_json))


def _compress(
    net: str,
    output: Path,
    report: str | None,
    domain: str | None,
    *,
    options: Options,
    keywords: dict[str, Any],
    as_json: bool,
) -> int:
    from stablenet.cli.compression_tables import render, summary
    from stablenet.compression.compress import compress as run
    from stablenet.domain.samples import read_samples
    from stablenet.domain.spec import parse_domain
    from stablenet.onnx_io.reader import load_onnx
    from stablenet.report.report import Report

    if report is None and domain is None:
        raise InputError("--report REPORT.json or --domain SPEC is missing: stable neurons are found on a domain")
    if keywords["check"] < 0:
        raise InputError(f"check {keywords['check']}; a number from 0 up is expected")
    network = load_onnx(net)
    region = None if domain is None else parse_domain(domain, network.n_inputs)
    code = 0
    if report is not None:
        found = Report.read(report)
    else:
        found, code = _find(net, str(domain), options)
    points = None if options.samples is None else read_samples(Path(options.samples), network.n_inputs)
    result = run(net, found, domain=region, samples=points, **keywords)
    result.write(output)
    data = summary(result)
    if as_json:
        say_json(json.dumps(data, ensure_ascii=False) + "\n")
    else:
        render(data, console())
        say(f"written: {output}")
    return code


def _find(net: str, domain: str, options: Options) -> tuple[Report, int]:
    """Stable neurons by `find`; a search that stopped early leaves less to compress, and exit code 3."""
    from stablenet.find.supervisor import supervise

    finished = supervise(net, domain, options, started=STARTED)
    finished.raise_contradiction()
    if finished.message is not None:
        complain(finished.message)
    return finished.report, finished.exit_code


EXIT_CODES = {
    "equal": ExitCode.DONE,
    "bounded": ExitCode.DONE,
    "different": ExitCode.CONTRADICTION,
    "undecided": ExitCode.STOPPED,
}
"""Of `verify`, by outcome."""


def verify(
    a: Annotated[str, typer.Argument(metavar="A.onnx", help="ONNX file.")],
    b: Annotated[str, typer.Argument(metavar="B.onnx", help="ONNX file with the same inputs and outputs.")],
    *,
    domain: Annotated[str, Spec],
    tolerance: Annotated[
        float | None, typer.Option(metavar="T", help="Default: the bound that a compressed file states, else 1e-5.")
    ] = None,
    wanted: Annotated[
        str | None,
        typer.Option("--property", metavar="P", help="within (T), top1, top1:MARGIN, order, order:MARGIN."),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Norm of the difference: linf (each output), l1, l2.")] = None,
    reading: Annotated[
        str | None,
        typer.Option(help="Of a VNN-LIB file's band joined by `and`: meant (stay within it), written."),
    ] = None,
    bound: Annotated[
        bool,
        typer.Option("--bound", help="No tolerance: the largest difference, from both sides."),
    ] = False,
    time_limit: Annotated[float | None, typer.Option(metavar="S", help="Seconds, start-up included.")] = None,
    memory_limit: MemoryLimit = None,
    solver: Annotated[str, typer.Option(help="MILP solver; see `stablenet solvers`.")] = "highs",
    formulation: Annotated[str, typer.Option(help="Encoding of a ReLU layer; see `stablenet formulations`.")] = "bigm",
    threads: Annotated[int, typer.Option(help="Threads; 0: all cores.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    steps: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Only these: bounds, gradient, split, stable, milp.")
    ] = None,
    arithmetic: Arithmetic = "real",
    report: Annotated[
        str | None, typer.Option(metavar="REPORT.json", help="Believe this report of `stablenet find`; no search.")
    ] = None,
    output: Annotated[str | None, typer.Option(metavar="X.npy", help="Where a counterexample goes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove that two networks agree on a domain, within T or in another property, or show an input where they do not.

    A VNN-LIB 2.0 file of two networks says what is asked, unless T or a property is given. Exit code 0: proven, or with
    --bound the range is narrow; 4: an input shows the contrary; 3: not decided.
    """
    from stablenet.cli.properties import Asked, answer, own_question, show, write_point
    from stablenet.core.options import Options
    from stablenet.equivalence.verify import STEPS
    from stablenet.equivalence.verify import verify as run
    from stablenet.report.files import command_files

    options = Options(
        solver=solver,
        formulation=formulation,
        threads=threads,
        seed=seed,
        arithmetic=arithmetic,
        time_limit=time_limit,
        memory_limit=memory_limit,
    )
    limit_memory(memory_limit)
    left = None if time_limit is None else max(time_limit - (time.time() - STARTED), 0.01)
    with command_files(
        {"--output": output}, networks={"A.onnx": a, "B.onnx": b}, domain=domain, reads={"--report": report}
    ):
        asked = Asked(domain, wanted, norm, tolerance, reading)
        chosen = None if steps is None else [step.strip() for step in steps.split(",")]
        if own_question(asked):
            if report is not None:
                raise InputError("--report is of a comparison with a tolerance; a property takes none")
            if arithmetic != "real":
                raise InputError(f"--arithmetic {arithmetic}: a property is of the real functions; leave one out")
            decision, found = answer(a, b, asked, time_limit=left, seed=seed, steps=chosen)
            raise typer.Exit(show(decision, found, output, as_json=as_json))
        result = run(
            a,
            b,
            domain,
            tolerance=tolerance,
            bound=bound,
            time_limit=left,
            solver=solver,
            formulation=formulation,
            threads=options.threads,
            seed=seed,
            report=report,
            arithmetic=arithmetic,
            steps=STEPS if chosen is None else chosen,
        )
        point = None if result.found is None or result.outcome != "different" else result.found.point
        failed = None if output is None else write_point(output, point)
    for note in (*result.notes, *(() if failed is None else (failed,))):
        complain(note)
    if as_json:
        say_json(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
    else:
        _print(result, output if failed is None else None)
    raise typer.Exit(ExitCode.STOPPED if failed is not None else EXIT_CODES[result.outcome])


def _print(result: Verification, output: str | None) -> None:
    proof = "rigorous" if result.rigorous else "by solver, not rigorous"
    if result.by.endswith("report"):
        proof += " if the report holds"
    took = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in result.seconds.items())
    if result.outcome == "equal":
        say(f"equal within {result.tolerance:.6g}: |A - B| <= {result.bound:.6g} ({proof}, by {result.by})")
    elif result.tolerance is None:
        least = 0.0 if result.found is None else result.found.difference
        at = "" if result.found is None else f" (output {result.found.output})"
        met = "" if result.outcome == "bounded" else f"; stopped by {result.by}"
        say(f"the largest |A - B| lies between {least:.6g}{at} and {result.bound:.6g} ({proof}){met}")
    elif result.outcome == "different" and result.found is not None:
        found = result.found
        say(
            f"different: output {found.output} differs by more than {found.difference:.6g} "
            f"(T = {result.tolerance:.6g}); no output by more than {result.bound:.6g} ({proof})"
        )
        if output is None:
            say(f"at x = {json.dumps(found.point.tolist())}")
        else:
            say(f"at x in {output}")
    else:
        least = 0.0 if result.found is None else result.found.difference
        say(
            f"not decided within {result.tolerance:.6g} ({result.by}): the largest |A - B| lies between {least:.6g} "
            f"and {result.bound:.6g} ({proof})"
        )
    if result.arithmetic == "float32":
        say(f"arithmetic: float32: of any two evaluations; rounding makes up to {result.deviation:.6g} of the bound")
    elif result.deviation:
        say(f"the import rounded: that makes up to {result.deviation:.6g} of the bound")
    if result.neurons:
        say("neurons of B: " + ", ".join(f"{count:,} {name}" for name, count in result.neurons.items()) + f"; {took}")
