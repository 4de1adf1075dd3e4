"""What a report speaks of, in words: the arithmetic, and a network that the import rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def arithmetic_of(report: Mapping[str, Any]) -> str:
    """What a report (its JSON object) speaks of: "real" arithmetic, or "float32"."""
    return str(report["config"].get("arithmetic", "real"))


def float32_words() -> str:
    """What a report of float32 arithmetic speaks of, in a sentence."""
    return (
        "arithmetic: float32. Verdicts and bounds hold for the real function and for every evaluation in float32, in "
        "any order of summation, with or without fused multiply-adds and subnormals"
    )


def folded_words(network: Mapping[str, Any]) -> str:
    """What a report of a network that was folded with rounding speaks of, in a sentence."""
    error, differences = network.get("import_error"), network.get("import_difference") or [None]
    most = None if None in differences else max(differences)
    words = "the import rounded: all this speaks of the folded network"
    if error is not None:
        words += f", each coefficient of which is within {error:.2g} of the file's"
    if most is not None:
        words += f" and each pre-activation within {most:.2g}"
    return words
