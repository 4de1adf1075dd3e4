"""A report's neurons as a pandas table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stablenet.core.errors import NotInstalledError


def frame_of(neurons: Iterable[Mapping[str, Any]]) -> Any:
    """The ``DataFrame`` of `Report.to_frame`, from the neurons of a report's JSON object."""
    try:
        import pandas as pd
    except ImportError:
        raise NotInstalledError('pandas is not installed: pip install "stablenet[pandas]"') from None
    rows = []
    for neuron in neurons:
        row = {name: neuron[name] for name in ("layer", "neuron", "verdict", "lower", "upper")}
        for side in ("positive", "negative"):
            question = neuron[side]
            row |= {side: question["state"], f"{side}_by": question.get("by")}
            row[f"{side}_rigorous"] = question.get("rigorous")
        rows.append(row)
    return pd.DataFrame(rows).set_index(["layer", "neuron"])
