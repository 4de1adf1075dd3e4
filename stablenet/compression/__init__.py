"""Exact compression: a smaller network with the same function on a domain."""

from __future__ import annotations

from stablenet.compression.compress import Compressed, compress, compress_network
from stablenet.compression.steps import Step
from stablenet.equivalence.provenance import Provenance
from stablenet.report.evidence import Evidence

__all__ = ["Compressed", "Evidence", "Provenance", "Step", "compress", "compress_network"]
