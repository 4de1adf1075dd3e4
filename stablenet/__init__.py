"""Exact reasoning about trained ReLU networks by mixed-integer optimisation."""

from __future__ import annotations

__version__ = "0.1.0"
