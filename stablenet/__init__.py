"""Exact reasoning about trained ReLU networks by mixed-integer optimisation.

The names below are imported when first used, so that the command line starts fast and importing the
package imports no solver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stablenet._version import __version__ as __version__

if TYPE_CHECKING:
    from stablenet.api import add_network, build_model, find_stable
    from stablenet.compare.publish.page import write_report_page
    from stablenet.compression.compress import Compressed, compress
    from stablenet.core.bounds import Bounds
    from stablenet.core.network import AffineMap, Layer, Network, Term
    from stablenet.core.options import Options
    from stablenet.domain.regions import Box, Domain, LinfBall, Polytope, Union
    from stablenet.domain.vnnlib import read_vnnlib
    from stablenet.equivalence.decide import Decision
    from stablenet.equivalence.properties import verify_property
    from stablenet.equivalence.verification import Verification
    from stablenet.equivalence.verify import verify
    from stablenet.onnx_io.convert import from_sklearn, from_torch
    from stablenet.onnx_io.reader import load_onnx
    from stablenet.pyomo_model.embedded import EmbeddedNetwork, embedded_networks
    from stablenet.report.report import Report

_HOMES = {
    "add_network": "stablenet.api",
    "write_report_page": "stablenet.compare.publish.page",
    "EmbeddedNetwork": "stablenet.pyomo_model.embedded",
    "embedded_networks": "stablenet.pyomo_model.embedded",
    "build_model": "stablenet.api",
    "find_stable": "stablenet.api",
    "Bounds": "stablenet.core.bounds",
    "Compressed": "stablenet.compression.compress",
    "compress": "stablenet.compression.compress",
    "from_sklearn": "stablenet.onnx_io.convert",
    "from_torch": "stablenet.onnx_io.convert",
    "Verification": "stablenet.equivalence.verification",
    "verify": "stablenet.equivalence.verify",
    "Decision": "stablenet.equivalence.decide",
    "verify_property": "stablenet.equivalence.properties",
    "Box": "stablenet.domain.regions",
    "Domain": "stablenet.domain.regions",
    "LinfBall": "stablenet.domain.regions",
    "Polytope": "stablenet.domain.regions",
    "Union": "stablenet.domain.regions",
    "AffineMap": "stablenet.core.network",
    "Layer": "stablenet.core.network",
    "Network": "stablenet.core.network",
    "Options": "stablenet.core.options",
    "Term": "stablenet.core.network",
    "load_onnx": "stablenet.onnx_io.reader",
    "Report": "stablenet.report.report",
    "read_vnnlib": "stablenet.domain.vnnlib",
}

__all__ = [
    "AffineMap",
    "Bounds",
    "Box",
    "Compressed",
    "Decision",
    "Domain",
    "EmbeddedNetwork",
    "Layer",
    "LinfBall",
    "Network",
    "Options",
    "Polytope",
    "Report",
    "Term",
    "Union",
    "Verification",
    "add_network",
    "build_model",
    "compress",
    "embedded_networks",
    "find_stable",
    "from_sklearn",
    "from_torch",
    "load_onnx",
    "read_vnnlib",
    "verify",
    "verify_property",
    "write_report_page",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stablenet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
