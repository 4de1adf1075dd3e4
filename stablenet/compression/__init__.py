"""Exact compression: a smaller network with the same function on a domain."""

from __future__ import annotations

from stablenet.compression.driver import Compressed, compress, compress_network
from stablenet.compression.evidence import Evidence
from stablenet.compression.steps import Provenance, Step

__all__ = ["Compressed", "Evidence", "Provenance", "Step", "compress", "compress_network"]
