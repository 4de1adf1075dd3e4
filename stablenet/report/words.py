"""The scope of a report in words: the arithmetic, and whether the import rounded the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def arithmetic_of(report: Mapping[str, Any]) -> str:
    """The arithmetic for which a report (its JSON object) holds: "real" or "float32"."""
    return str(report["config"].get("arithmetic", "real"))


def float32_words() -> str:
    """A sentence about the scope of a report for float32 arithmetic."""
    return (
        "arithmetic: float32. Verdicts and bounds hold for the real function and for every evaluation in float32, in "
        "any order of summation, with or without fused multiply-adds and subnormals"
    )


def folded_words(network: Mapping[str, Any]) -> str:
    """A sentence about the scope of a report on a network that was folded with rounding."""
    error, differences = network.get("import_error"), network.get("import_difference") or [None]
    most = None if None in differences else max(differences)
    words = "the import rounded: all this speaks of the folded network"
    if error is not None:
        words += f", each coefficient of which is within {error:.2g} of the file's"
    if most is not None:
        words += f" and each pre-activation within {most:.2g}"
    return words
