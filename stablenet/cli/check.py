"""The command ``check``: whether a report holds, or two networks are equal, by a proof file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from stablenet.core.errors import ExitCode

if TYPE_CHECKING:
    from stablenet.check.claims import Result
    from stablenet.core.network import Network

SHOWN = 20
"""Problems that are printed."""


def check(
    net: Annotated[str, typer.Argument(metavar="NET", help="ONNX file.")],
    other: Annotated[str | None, typer.Argument(metavar="[OTHER]", help="ONNX file to be equal to NET.")] = None,
    *,
    proof: Annotated[str, typer.Option(metavar="FILE", help="File that `find --proof` or `verify --proof` wrote.")],
    report: Annotated[str | None, typer.Option(metavar="REPORT.json", help="Report of `stablenet find`.")] = None,
    domain: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Domain that it has to be about; default: the report's.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(metavar="T", help="With OTHER: that no output differs by more, which is proven.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every verdict of a report that claims to be proven, or that NET and OTHER are equal within T on a domain.

    Exit code 0: all is proven; 4: something does not hold, and is named; 2: a file is malformed or about something
    else.
    """
    from stablenet.core.errors import InputError
    from stablenet.onnx_io.reader import load_onnx

    if other is None:
        if report is None or tolerance is not None:
            raise InputError("of one network --report is needed, and --tolerance has no meaning")
        _report(load_onnx(net), report, proof, domain, as_json=as_json)
    if report is not None or domain is None or tolerance is None:
        raise InputError("of two networks --domain and --tolerance are needed, and there is no --report")
    _equality(load_onnx(net), load_onnx(other), proof, domain, tolerance, as_json=as_json)


def _report(network: Network, report: str, proof: str, domain: str | None, *, as_json: bool) -> NoReturn:
    from stablenet.check.claims import check as run
    from stablenet.domain.spec import parse_domain

    region = None if domain is None else parse_domain(domain, network.n_inputs)
    result = run(network, report, proof, domain=region)
    if as_json:
        typer.echo(json.dumps({"holds": not result.problems, **vars(result)}, ensure_ascii=False))
    else:
        _print(result)
    raise typer.Exit(ExitCode.CONTRADICTION if result.problems else ExitCode.DONE)


def _equality(a: Network, b: Network, proof: str, domain: str, tolerance: float, *, as_json: bool) -> NoReturn:
    from stablenet.check_two.equality import check_equality
    from stablenet.domain.spec import parse_domain

    result = check_equality(a, b, parse_domain(domain, a.n_inputs), proof, tolerance)
    if as_json:
        typer.echo(json.dumps({"holds": not result.problems, **vars(result)}, ensure_ascii=False))
    elif not result.problems:
        typer.echo(f"equal within {tolerance!r}: proven on {len(result.excess)} part{'s' * (len(result.excess) > 1)}")
    for problem in () if as_json else result.problems[:SHOWN]:
        typer.echo(f"does not hold: {problem}")
    raise typer.Exit(4 if result.problems else 0)


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
