"""The command ``check``: does a report hold, by a proof that anybody can read?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stablenet.check.claims import Result


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

    Exit code 0: all of them are; 4: something does not hold, and is named; 2: a file is malformed or about something else.
    """
    from stablenet.check.claims import check as run
    from stablenet.domain.spec import parse_domain
    from stablenet.onnx_io import load_onnx

    network = load_onnx(net)
    region = None if domain is None else parse_domain(domain, network.n_inputs)
    result = run(network, report, proof, domain=region)
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
    else:
        _print(result)
    raise typer.Exit(4 if result.problems else 0)


SHOWN = 20
"""Problems that are printed."""


def _print(result: Result) -> None:
    proven = sum(result.verdicts.values())
    typer.echo(
        f"{proven} verdicts hold: " + (", ".join(f"{n} {name}" for name, n in result.verdicts.items()) or "none")
    )
    if result.by:
        typer.echo("shown by: " + ", ".join(f"{n} {name}" for name, n in result.by.most_common()))
    typer.echo(
        f"{result.witnesses} witnesses replayed; {result.unproven} verdicts claim no proof, {result.open} unknown"
    )
    for problem in result.problems[:SHOWN]:
        typer.echo(f"does not hold: {problem}")
    if len(result.problems) > SHOWN:
        typer.echo(f"and {len(result.problems) - SHOWN} more")
