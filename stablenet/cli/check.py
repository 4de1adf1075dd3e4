"""The command ``check``: whether a report holds, by a proof file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from stablenet.core.errors import ExitCode

if TYPE_CHECKING:
    from stablenet.check.claims import Result

SHOWN = 20
"""Problems that are printed."""


def check(
    net: Annotated[str, typer.Argument(metavar="NET", help="ONNX file.")],
    *,
    report: Annotated[str, typer.Option(metavar="REPORT.json", help="Report of `stablenet find`.")],
    proof: Annotated[str, typer.Option(metavar="FILE", help="File that `stablenet find --proof` wrote.")],
    domain: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Domain that the report has to be about; default: any.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every verdict of a report that claims to be proven.

    Exit code 0: all of them are; 4: something does not hold, and is named; 2: a file is malformed or about something
    else.
    """
    from stablenet.check.claims import check as run
    from stablenet.domain.spec import parse_domain
    from stablenet.onnx_io.reader import load_onnx

    network = load_onnx(net)
    region = None if domain is None else parse_domain(domain, network.n_inputs)
    result = run(network, report, proof, domain=region)
    if as_json:
        typer.echo(json.dumps({"holds": not result.problems, **vars(result)}, ensure_ascii=False))
    else:
        _print(result)
    raise typer.Exit(ExitCode.CONTRADICTION if result.problems else ExitCode.DONE)


def _print(result: Result) -> None:
    verdicts = ", ".join(f"{n} {name}" for name, n in result.verdicts.items())
    typer.echo(f"{sum(result.verdicts.values())} verdicts hold: {verdicts or 'none'}")
    if result.by:
        typer.echo("shown by: " + ", ".join(f"{n} {name}" for name, n in result.by.most_common()))
    typer.echo(f"{result.witnesses} witnesses replayed; {result.unproven} verdicts claim no proof")
    typer.echo(f"{result.unknown} neurons are unknown")
    for problem in result.problems[:SHOWN]:
        typer.echo(f"does not hold: {problem}")
    if len(result.problems) > SHOWN:
        typer.echo(f"and {len(result.problems) - SHOWN} more")
