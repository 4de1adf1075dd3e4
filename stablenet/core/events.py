"""Events of a ledger: plain JSON values, so that a ledger in one process can follow one in another."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from stablenet.core.arrays import Array

Event = dict[str, Any]


def encode_array(array: Array) -> str:
    """A float64 array as base64 of its little-endian bytes: exact, and fast to write."""
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f8").tobytes()).decode("ascii")


def decode_array(text: str) -> Array:
    """The inverse of `encode_array`."""
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
