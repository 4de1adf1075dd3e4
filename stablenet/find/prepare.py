"""What a run is given: network, domain, sample points and options are read, and checked against each other.

All entry points read their input here: `find_stable`, the engine process, `verify`, `compress` and grids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.core.float32 import in_float32
from stablenet.core.network import Network
from stablenet.core.options import Options
from stablenet.domain.regions import Domain
from stablenet.domain.samples import read_samples
from stablenet.domain.spec import read_domain
from stablenet.find.pipeline import Setup
from stablenet.onnx_io.external_data import external_files
from stablenet.onnx_io.reader import load_onnx

__all__ = ["Inputs", "beside", "prepare", "read_domain", "read_inputs", "read_network"]

CHANGED = "the file is not the one any more that the network was read from"
"""What is wrong where a network's file has other contents than when it was read."""


@dataclass(frozen=True)
class Inputs:
    """A network, a domain with as many inputs, and sample points, (m, n_inputs), None without any."""

    network: Network
    domain: Domain
    samples: Array | None = None


def prepare(network: Network | str | Path, domain: Domain | str | Mapping[str, Any], options: Options) -> Setup:
    """The checked parts of a run.

    Args:
        network: a network, or an ONNX file.
        domain: a domain, a specification as on the command line, or the report's form of a domain.
        options: all else; the names and files in them are looked up.

    Returns:
        What `stablenet.find.pipeline.find` works with.

    Raises:
        InputError: something cannot be read, does not exist, or does not fit together.
        NotInstalledError: a solver is missing.
    """
    given = read_inputs(network, domain, arithmetic=options.arithmetic)
    return Setup(given.network, given.domain, options)


def read_inputs(
    network: Network | str | Path,
    domain: Domain | str | Mapping[str, Any],
    samples: str | Path | None = None,
    *,
    arithmetic: str | None = None,
) -> Inputs:
    """Network, domain and sample points, read where they are files; raises `InputError` where they do not fit."""
    net = read_network(network, arithmetic)
    region = read_domain(domain, net.n_inputs)
    return Inputs(net, region, None if samples is None else read_samples(Path(samples), net.n_inputs))


def read_network(network: Network | str | Path, arithmetic: str | None = None) -> Network:
    """The network itself, or that of a file.

    ``arithmetic`` None takes a network as it is, and reads a file for real arithmetic. For float32 the file of a
    network is read again, for how its nodes compute each map. Raises `InputError` where that file has changed, or the
    network was read for another arithmetic.
    """
    if not isinstance(network, Network):
        return load_onnx(network, arithmetic or "real")
    if arithmetic in {None, network.arithmetic}:
        return network
    if arithmetic == "real":
        raise InputError("the network was read for float32 arithmetic; the option arithmetic='float32' is missing")
    if not (network.file and network.content == network.content_digest):
        return in_float32(network)
    read = load_onnx(network.file, "float32")
    if read.identity != network.identity:
        raise InputError(f"{network.file}: {CHANGED}")
    return read


def beside(path: Path) -> list[Path]:
    """The files of external data that a network's file names; those outside its folder are no part of it."""
    found = external_files(path) if path.suffix == ".onnx" else []
    return [file for file in found if file.is_file() and file.is_relative_to(path.parent) and ".." not in file.parts]
