"""Exact reasoning about trained ReLU networks by mixed-integer optimisation.

The names below are imported when first used, so that the command line starts fast and importing the
package imports no solver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stablenet.api import build_model, find_stable
    from stablenet.bounds import Bounds
    from stablenet.compression.driver import Compressed, compress
    from stablenet.convert import from_sklearn, from_torch
    from stablenet.domain import Box, Domain, LinfBall, Polytope, Union
    from stablenet.equivalence.verification import Verification
    from stablenet.equivalence.verify import verify
    from stablenet.network import Network
    from stablenet.onnx_io import load_onnx
    from stablenet.report import Report
    from stablenet.vnnlib import read_vnnlib

__version__ = "0.1.0"

_HOMES = {
    "build_model": "stablenet.api",
    "find_stable": "stablenet.api",
    "Bounds": "stablenet.bounds",
    "Compressed": "stablenet.compression.driver",
    "compress": "stablenet.compression.driver",
    "from_sklearn": "stablenet.convert",
    "from_torch": "stablenet.convert",
    "Verification": "stablenet.equivalence.verification",
    "verify": "stablenet.equivalence.verify",
    "Box": "stablenet.domain",
    "Domain": "stablenet.domain",
    "LinfBall": "stablenet.domain",
    "Polytope": "stablenet.domain",
    "Union": "stablenet.domain",
    "Network": "stablenet.network",
    "load_onnx": "stablenet.onnx_io",
    "Report": "stablenet.report",
    "read_vnnlib": "stablenet.vnnlib",
}

__all__ = [
    "Bounds",
    "Box",
    "Compressed",
    "Domain",
    "LinfBall",
    "Network",
    "Polytope",
    "Report",
    "Union",
    "Verification",
    "build_model",
    "compress",
    "find_stable",
    "from_sklearn",
    "from_torch",
    "load_onnx",
    "read_vnnlib",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stablenet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
