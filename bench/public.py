"""The public networks, in the folder that STABLENET_NETWORKS names, for the benchmarks that want them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stablenet.domain import Domain
from stablenet.network import Network
from stablenet.onnx_io import load_onnx
from stablenet.spec import parse_domain

FOLDER = os.environ.get("STABLENET_NETWORKS", "")

LACKING = "STABLENET_NETWORKS names no folder of public networks"

needs_networks = pytest.mark.skipif(not FOLDER, reason=LACKING)


def file_of(name: str) -> Path:
    return Path(FOLDER) / f"{name}.onnx"


def read(name: str, spec: str) -> tuple[Network, Domain]:
    """A network and a domain on it: a box, or a file of the folder."""
    network = load_onnx(file_of(name))
    return network, parse_domain(spec if spec.startswith("box:") else str(Path(FOLDER) / spec), network.n_inputs)
