"""Options: ranges, types, names, and the way through JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from stablenet.backends.base import registry as backends

from stablenet.core.errors import InputError, UnknownNameError
from stablenet.core.options import Options, usable_cores
from stablenet.search.base import tolerance_of

BAD: list[tuple[str, Any]] = [
    ("inject", "some"),
    ("removal", "some"),
    ("margin", -1e-9),
    ("margin", 1e-9),
    ("margin", 1e-12),
    ("margin", 0.1),
    ("margin", math.nan),
    ("margin", "small"),
    ("time_limit", 0),
    ("time_limit", -1.0),
    ("time_limit", math.inf),
    ("time_limit", math.nan),
    ("time_limit", "60"),
    ("memory_limit", 0.0),
    ("memory_limit", math.inf),
    ("threads", -1),
    ("threads", 1.5),
    ("threads", True),
    ("seed", -1),
    ("seed", 2**31),
    ("seed", None),
    ("permute", -1),
    ("permute", "no"),
    ("falsify", 1),
    ("falsify", "no"),
    ("solver", None),
    ("samples", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        Options(**{name: value})
    message = str(caught.value)
    assert "\n" not in message
    assert name.replace("_", " ").removeprefix("inject") in message


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown option 'tme_limit'; there are: .*time_limit"):
        Options.from_json({"tme_limit": 3})
    with pytest.raises(UnknownNameError, match="off, random, relaxation"):
        Options(inject="some")


def test_options_go_through_json() -> None:
    options = Options(search="neuron", margin=0.0, time_limit=3, permute=0, falsify=False, samples="s.npy")
    assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_all_cores_unless_told() -> None:
    assert Options().threads == usable_cores() >= 1
    assert Options(threads=3).threads == 3


@pytest.mark.parametrize("solver", [*backends.classes, "pyomo:glpk"])
@pytest.mark.parametrize("margin", [None, 0.0, 1e-8, 1e-6, 1e-3])
def test_tolerances_are_at_most_a_tenth_of_the_margin(margin: float | None, solver: str) -> None:
    backend = backends.get(solver) if solver != "pyomo" else backends.get("pyomo:highs")
    chosen = tolerance_of(Options(margin=margin), backend)
    assert min(chosen.feasibility, chosen.integrality) >= 1e-9
    assert max(chosen.feasibility, chosen.integrality) <= 1e-6
    if margin != 0:
        assert chosen.slack <= chosen.margin * (1.0 + 1e-12)
    assert chosen.margin == (backend.tolerance.margin if margin is None else margin)


def test_the_log_is_a_path() -> None:
    assert Options().log_path is None
    assert Options(solver_log="a/b.log").log_path == Path("a/b.log")
