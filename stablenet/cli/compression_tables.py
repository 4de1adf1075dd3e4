"""What a compression achieved, as data and as a table, beside what the published operations alone achieve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stablenet.compression.compress import Compressed
from stablenet.compression.steps import TITLES
from stablenet.compression.working_network import count, dense
from stablenet.core.network import AffineMap, Network

if TYPE_CHECKING:
    from rich.console import Console


def multiply_adds(network: Network) -> int:
    """Multiplications that an evaluation of one sample makes.

    A map to a vector is counted as the full matrices that it is written as, a source added as it is not at all; a map
    to an image by its nonzero coefficients.
    """
    total = 0
    shapes = [*(layer.shape for layer in network.layers), network.output_shape]
    for affine, shape in zip(_maps(network), shapes, strict=True):
        for term in affine.terms:
            rows, columns = term.matrix.shape
            if len(shape) > 2:
                total += count(term.matrix)
            elif not (rows == columns == count(term.matrix) and np.array_equal(dense(term.matrix), np.eye(rows))):
                total += rows * columns
    return total


def _maps(network: Network) -> list[AffineMap]:
    return [*(layer.affine for layer in network.layers), network.output]


def summary(result: Compressed) -> dict[str, Any]:
    """A compression as JSON-ready data; each row of ``layers`` is a layer of the original, the output last."""
    before, after, paper = result.original, result.network, result.paper[0]
    names = [layer.name for layer in before.layers]
    ours = _by_name(after)
    theirs = _by_name(paper)
    rows = []
    for name, affine in zip([*names, None], _maps(before), strict=True):
        row: dict[str, Any] = {"layer": name or "output", "neurons": [0, 0, 0], "connections": [0, 0, 0]}
        for i, found in enumerate((affine, theirs.get(name), ours.get(name))):
            if found is not None:
                row["neurons"][i] = found.size if name is not None else 0
                row["connections"][i] = found.n_connections
        rows.append(row)
    networks = (before, paper, after)
    return {
        "layers": rows,
        "neurons": [network.n_neurons for network in networks],
        "connections": [sum(affine.n_connections for affine in _maps(network)) for network in networks],
        "multiply_adds": [multiply_adds(network) for network in networks],
        "bytes": [result.original_bytes, None, len(result.data)],
        "bound": float(result.bound.max(initial=0.0)),
        "rigorous_bound": float(result.rigorous_bound.max(initial=0.0)),
        "arithmetic": "real" if result.in_float32 is None else "float32",
        "float32_bound": result.in_float32,
        "float32_same_sums": result.same_sums,
        "tolerance": result.tolerance,
        "kept": [names[k] for k in result.kept],
        "left_out": [names[k] for k in result.left_out],
        "full_bound": result.full_bound,
        "checked": result.checked,
        "runtime": result.runtime,
        "steps": [step.to_json() for step in result.steps],
    }


def _by_name(network: Network) -> dict[str | None, AffineMap]:
    named: dict[str | None, AffineMap] = {layer.name: layer.affine for layer in network.layers}
    return named | {None: network.output}


def render(data: dict[str, Any], console: Console) -> None:
    """Print a summary for people."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    table.add_column("")
    for heading in ("neurons", "paper", "ours", "connections", "paper", "ours"):
        table.add_column(heading, justify="right")
    for row in data["layers"]:
        neurons = [f"{n:,}" for n in row["neurons"]] if any(row["neurons"]) else [""] * 3
        table.add_row(Text(str(row["layer"])), *neurons, *(f"{n:,}" for n in row["connections"]))
    table.add_section()
    table.add_row("total", *(f"{n:,}" for n in (*data["neurons"], *data["connections"])))
    console.print(table)
    adds, size = data["multiply_adds"], data["bytes"]
    console.print(f"multiply-adds {adds[0]:,} -> {adds[2]:,} (paper's operations alone: {adds[1]:,})")
    console.print(f"file          {size[0]:,} -> {size[2]:,} bytes")
    for kind, title in TITLES.items():
        steps = [step for step in data["steps"] if step["kind"] == kind]
        if steps:
            lost, saved = sum(_lost(step) for step in steps), sum(int(step["connections"]) for step in steps)
            console.print(Text(f"{title}: {lost:,} neurons, {saved:,} connections"), soft_wrap=True)
    if data["kept"]:
        kept = ", ".join(data["kept"])
        console.print(Text(f"these keep their nodes and lose whole channels only: {kept}"), soft_wrap=True)
    conditions = [step["condition"] for step in data["steps"] if step["condition"] is not None]
    if conditions:
        console.print(f"condition of the worst basis {max(conditions):.3g}")
    console.print(Text(_bound_line(data)), soft_wrap=True)
    if data["float32_bound"] is not None:
        console.print(Text(_float32_line(data)), soft_wrap=True)
    if data["left_out"]:
        console.print(
            Text(
                f"not merged: {', '.join(data['left_out'])}, or the bound would be {data['full_bound']:.3g}, above the "
                f"tolerance {data['tolerance']:.3g}; --tolerance and --dtype float64 change that"
            ),
            soft_wrap=True,
        )
    console.print(Text(f"checked on {data['checked']:,} points with {data['runtime']}"), soft_wrap=True)


def _lost(step: dict[str, Any]) -> int:
    stand_ins = int(step["kept"]) if step["kind"] == "rank" else 0
    return len(step["neurons"]) - stand_ins


def _float32_line(data: dict[str, Any]) -> str:
    if data["float32_same_sums"]:
        return "float32: only neurons that are 0 in every evaluation were removed; the rest adds up the same products"
    return f"float32: any two evaluations of f and f' on the domain differ by at most {data['float32_bound']:.3g}"


def _bound_line(data: dict[str, Any]) -> str:
    bound, rigorous = data["bound"], data["rigorous_bound"]
    if bound == rigorous:
        return f"|f - f'| on the domain: at most {bound:.3g} (rigorous)"
    return f"|f - f'| on the domain: at most {bound:.3g} if the report's MILP proofs hold, {rigorous:.3g} without them"
