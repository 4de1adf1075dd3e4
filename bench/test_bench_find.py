"""Import, falsifying, and each search, on the shipped network; the page of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stablenet.api import find_stable
from stablenet.compare.page import report_page
from stablenet.domain import Box
from stablenet.falsify import Falsifier
from stablenet.ledger import Ledger
from stablenet.onnx_io import load_onnx

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits_3x100.onnx"
FEW = "box:0.4:0.6"
"""A domain on which bounds and falsifying leave few questions, so that a round takes a second at most."""


def test_import(benchmark) -> None:
    assert benchmark(load_onnx, DIGITS).n_neurons == 300


def test_falsify(benchmark) -> None:
    network = load_onnx(DIGITS)
    domain = Box(np.zeros(64), np.ones(64))

    def run() -> Ledger:
        ledger = Ledger([layer.size for layer in network.layers], 1)
        Falsifier(network, domain, ledger, np.random.default_rng(0), lambda: False).run()
        return ledger

    assert np.count_nonzero(benchmark.pedantic(run, rounds=5, warmup_rounds=1).pending(0)) < 600


@pytest.mark.parametrize("search", ["neuron", "layer", "network", "split", "branch", "auto"])
def test_search(benchmark, search: str) -> None:
    # `split` alone does not close the last questions in 64 dimensions: what is timed is its whole budget.
    found = benchmark.pedantic(find_stable, (DIGITS, FEW), {"search": search}, rounds=3, warmup_rounds=1)
    assert found.counts["unknown"] == 0 or search == "split"


def test_page_of_a_run(benchmark) -> None:
    report = find_stable(DIGITS, FEW, search="off").to_json()
    assert "<html" in benchmark(report_page, report)
