"""The public networks, in the folder that STABLENET_NETWORKS names, for the benchmarks that want them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.domain.spec import parse_domain
from stablenet.onnx_io.reader import load_onnx

FOLDER = os.environ.get("STABLENET_NETWORKS", "")

# They are never committed, so that a machine without them has nothing to measure; random networks stand in there.
needs_networks = pytest.mark.skipif(not FOLDER, reason="STABLENET_NETWORKS names no folder of public networks")


def file_of(name: str) -> Path:
    return Path(FOLDER) / f"{name}.onnx"


def read(name: str, spec: str) -> tuple[Network, Domain]:
    """A network and a domain on it: a box, or a file of the folder."""
    network = load_onnx(file_of(name))
    return network, parse_domain(spec if spec.startswith("box:") else str(Path(FOLDER) / spec), network.n_inputs)
