"""What was understood of a network, as data and as text (`stablenet info`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stablenet.core.network import AffineMap, Layer, Network
from stablenet.core.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console


def describe(network: Network) -> dict[str, Any]:
    """A network as JSON-ready data.

    Shapes are those of one sample. ``sources`` of an affine map: 0 is the input, k + 1 layer k.
    ``import_error`` bounds the absolute error of every stored coefficient, 0 if ``exact_import``. ``valid`` is what a
    compressed file says of itself: the domain on which it is its original's equal, and the bound on the difference.
    """
    return {
        "file": network.file,
        "sha256": network.sha256,
        "opset": network.opset,
        "input": {"name": network.input_name, "shape": list(network.input_shape), "size": network.n_inputs},
        "output": {
            "name": network.output_name,
            "shape": list(network.output_shape),
            "size": network.n_outputs,
            **_map(network.output),
        },
        "neurons": network.n_neurons,
        "connections": sum(affine.n_connections for affine in _maps(network)),
        "exact_import": network.exact,
        "import_error": network.import_error,
        "metadata": dict(network.metadata),
        "valid": _valid(network),
        "layers": [_layer(number, layer) for number, layer in enumerate(network.layers)],
    }


def _maps(network: Network) -> list[AffineMap]:
    return [*(layer.affine for layer in network.layers), network.output]


def _map(affine: AffineMap) -> dict[str, Any]:
    return {
        "sources": [term.source for term in affine.terms],
        "connections": affine.n_connections,
        "nodes": list(affine.nodes),
    }


def _valid(network: Network) -> dict[str, Any] | None:
    """The domain and bound that a compressed file states; None for any other file."""
    from stablenet.core.errors import InputError
    from stablenet.domain.spec import domain_summary
    from stablenet.equivalence.provenance import bound_of, domain_of

    try:
        domain = domain_of(network)
    except InputError as error:
        return {"domain": None, "text": str(error), "bound": None}
    if domain is None:
        return None
    return {"domain": domain.to_json(), "text": domain_summary(domain), "bound": bound_of(network)}


def _layer(number: int, layer: Layer) -> dict[str, Any]:
    return {
        "layer": number,
        "name": layer.name,
        "origin": layer.origin,
        "node": layer.node,
        "size": layer.size,
        "shape": list(layer.shape),
        "channel_axis": layer.channel_axis,
        **_map(layer.affine),
    }


def render(description: dict[str, Any], console: Console) -> None:
    """Print a description for people."""
    from rich.table import Table
    from rich.text import Text

    given, output = description["input"], description["output"]
    exact = (
        "exact: no coefficient was rounded"
        if description["exact_import"]
        else f"folded with rounding: each coefficient within {description['import_error']:.2g} of the file's"
    )
    valid = description["valid"]
    bound = "" if valid is None or valid["bound"] is None else f", where |f - f'| <= {valid['bound']:.3g}"
    lines = [
        f"file    {description['file']}  (opset {description['opset']})",
        f"input   {given['name']}  {_shape(given['shape'])}",
        f"output  {output['name']}  {_shape(output['shape'])}",
        f"size    {_count(description)}",
        f"import  {exact}",
        *([] if valid is None else [f"valid   on {valid['text']}{bound}"]),
        *(f"{key}: {_short(value)}" for key, value in description["metadata"].items()),
    ]
    for line in lines:
        console.print(Text(plain(line)), soft_wrap=True)
    table = Table(box=None, header_style="bold")
    for heading in ("layer", "name", "origin", "shape", "neurons", "from", "connections", "folded nodes"):
        table.add_column(heading, justify="right" if heading in ("neurons", "connections") else "left")
    for layer in description["layers"]:
        table.add_row(
            str(layer["layer"]),
            Text(plain(layer["name"])),
            layer["origin"],
            _shape(layer["shape"]),
            f"{layer['size']:,}",
            _sources(layer["sources"]),
            f"{layer['connections']:,}",
            Text(plain(", ".join(layer["nodes"]))),
        )
    table.add_row(
        "",
        Text(plain(output["name"])),
        "output",
        _shape(output["shape"]),
        "",
        _sources(output["sources"]),
        f"{output['connections']:,}",
        Text(plain(", ".join(output["nodes"]))),
    )
    console.print(table)


def _short(text: str) -> str:
    """One line of a property's value; ``--json`` has all of it."""
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:120]}… ({len(line):,} characters)"


def _count(description: dict[str, Any]) -> str:
    layers = len(description["layers"])
    return f"{description['neurons']:,} neurons in {layers} layers, {description['connections']:,} connections"


def _shape(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _sources(sources: list[int]) -> str:
    return ", ".join("input" if source == 0 else f"layer {source - 1}" for source in sources)
