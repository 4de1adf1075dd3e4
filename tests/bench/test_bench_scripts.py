"""The ladder and the side-by-side table: measuring in another process, resuming, goals, ratios, pages."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import dense

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
import growth
import ladder
import measured
import searches
import worker_times
from trained import recipe_of

from stablenet.onnx_io.reader import load_onnx

BENCH = Path(measured.__file__).parent


def row(outcome: str = "complete", **values: Any) -> measured.Row:
    spent = {"load": 0.1, "bounds": 0.1, "falsify": 0.2, "search": 0.7, "total": 2.0}
    known: measured.Row = {"work_s": 1.0, "cpu_s": 1.0, "peak_mb": 100.0, "neurons": 10, "open_end": 0}
    known |= {"seconds": spent, "solves": {}, "counts": {"unknown": 0}, "by": {"crown": 10}}
    known |= {"states": ["1200", "2100"], "load": 0.0, "code": "c"}
    return {"outcome": outcome, **known, **values}


@pytest.fixture
def request_(tmp_path: Path) -> measured.Measurement:
    options = {"search": "neuron", "threads": 1, "time_limit": 600.0, "falsify": False}
    return measured.Measurement(str(dense(tmp_path)), "box:-1:1", options)


def test_a_row_is_measured_once(
    request_: measured.Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = measured.Results(tmp_path / "rows.jsonl")
    found = results.measure(request_, "small")
    assert found["outcome"] == "complete"
    assert found["work_s"] > 0
    assert found["cpu_s"] > 0
    assert 20 < found["peak_mb"] < 2000
    assert found["open_end"] == 0
    assert found["solves"]["neuron"]["solves"] >= 1
    assert sum(found["by"].values()) == sum(state != "0" for side in found["states"] for state in side)
    opened = results.opened(request_, "small")
    assert opened is not None
    assert 0 < opened <= 2 * found["neurons"]

    def again(_: measured.Measurement) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(measured, "run", again)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('\n{"key": "cut of')  # what a killed run may leave
    resumed = measured.Results(tmp_path / "rows.jsonl")
    assert resumed.measure(request_, "small") == json.loads(json.dumps(found))
    with pytest.raises(AssertionError, match="twice"):
        measured.Results(tmp_path / "rows.jsonl", again=True).measure(request_, "small")


def test_keys_are_of_contents(request_: measured.Measurement, tmp_path: Path) -> None:
    other = tmp_path / "moved.onnx"
    other.write_bytes(Path(request_.network).read_bytes())
    assert measured.Measurement(str(other), request_.domain, request_.options).key == request_.key
    assert measured.Measurement(str(other), "box:-1:2", request_.options).key != request_.key
    centre = tmp_path / "centre.npy"
    balls = []
    for value in (0.0, 0.5):
        np.save(centre, np.full(3, value))
        balls.append(measured.Measurement(str(other), f"ball:{centre}:0.1", request_.options).key)
    assert balls[0] != balls[1]


def test_refusals_and_hangs_are_rows(request_: measured.Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = measured.Measurement(request_.network, request_.domain, {"search": "nonsense"})
    found = measured.run(wrong)
    assert found["outcome"] == "refused"
    assert "nonsense" in found["reason"]
    monkeypatch.setattr(measured, "GRACE", 0.2 - 600.0)
    found = measured.run(request_)
    assert found["outcome"] == "hang"
    assert "work_s" not in found


def test_goals() -> None:
    step = ladder.LadderStep("net", "box:0:1", 10.0)
    assert step.met(row(), 5)
    assert not step.met(row(work_s=11.0), 5)
    assert not step.met(row(peak_mb=2500.0), 5)
    assert not step.met(row("time", counts={"unknown": 1}), 5)
    assert not step.met({"outcome": "crash"}, None)
    closed = ladder.LadderStep("net", "box:0:1", 300.0, closed=0.6)
    assert closed.limit == 300.0
    assert closed.met(row("time", open_end=4), 10)
    assert not closed.met(row("time", open_end=5), 10)
    assert not closed.met(row("time", open_end=4), None)
    decided = ladder.LadderStep("net", "box:0:1", 120.0, decided=0.95)
    assert decided.met(row("time", neurons=100, counts={"unknown": 5}), 10)
    assert not decided.met(row("time", neurons=100, counts={"unknown": 6}), 10)
    assert len({step.name for step in ladder.LADDER}) == len(ladder.LADDER) >= 27


def test_a_page_says_what_is_missing_and_what_is_met() -> None:
    given = Namespace(shown=["--networks", "x"], search="auto", bounds="crown", solver="highs", threads=2, seed=0)
    given.neuron, given.neuron_limit = True, 60.0
    steps = [
        ladder.LadderStep("a", "box:0:1", 10.0),
        ladder.LadderStep("b", "box:0:1", 0.5),
        ladder.LadderStep("c", "box:0:1", 9.0),
    ]
    found = [
        ladder.Measured(steps[0], 4, row(), row("time", work_s=20.0, open_end=2)),
        ladder.Measured(steps[1], 4, row(), row(work_s=0.5)),
        ladder.Measured(steps[2], None, {"outcome": "hang", "load": 1.0, "code": "d"}, row()),
    ]
    text = "\n".join(ladder.page(given, found, ["d, since it is missing"]))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in lines}) == 1
    assert "| >= 20 |" in lines[1]
    assert "| **no** | 0.5 |" in lines[2]
    assert "hang" in lines[3]
    assert "1 of 3 goals" in text
    assert "d, since it is missing" in text
    assert "2 states of the code" in text


def test_the_ladder_runs_what_is_there(tmp_path: Path) -> None:
    dense(tmp_path, name="acasxu_1_1.onnx")
    command = [sys.executable, str(BENCH / "ladder.py"), "--networks", str(tmp_path), "--rows", "seed_mnist.*box"]
    done = subprocess.run([*command, "--cache", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "seed_mnist_100-100.onnx is missing" in done.stderr
    (tmp_path / "acasxu_1_1.onnx").rename(tmp_path / "seed_mnist_100-100.onnx")
    page = tmp_path / "pages" / "ladder.md"
    command += ["--cache", str(tmp_path), "--threads", "1", "--output", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    neurons = load_onnx(tmp_path / "seed_mnist_100-100.onnx").n_neurons
    assert f"| seed_mnist_100-100 box:0:1 | {neurons} |" in page.read_text()
    assert "1 of 1 goals are met" in page.read_text()
    assert "seed_mnist_200-200.onnx is missing" in page.read_text()


def test_contradictions_and_ratios() -> None:
    instance = searches.Instance("i", Path("n"), "box:0:1")
    instance.rows = {("neuron", "full"): row(), ("auto", "full"): row(work_s=1.4)}
    assert searches.contradictions(instance) == []
    assert searches.auto_over_best(instance) == ("1.40", True)
    assert searches.auto_over_best(instance, "cpu_s") == ("1.00", True)
    instance.rows["auto", "full"] = row(work_s=1.7)
    assert not searches.auto_over_best(instance)[1]
    instance.rows["auto", "full"] = row("time", work_s=1.1)
    assert searches.auto_over_best(instance) == (">= 1.1", False)
    instance.rows["split", "full"] = row(states=["1000", "2200"])
    assert [text for text in searches.contradictions(instance) if "split full refuted, 1 questions" in text]
    instance.rows["split", "full"] = row("contradiction")
    assert searches.contradictions(instance) == ["i: split full contradicts itself"]
    assert "frozen" not in searches.BARE
    assert searches.BARE["decide_by_bounds"] is searches.BARE["falsify"] is False


def test_a_side_by_side_page() -> None:
    given = Namespace(searches=["neuron", "auto"], modes=["bare", "full"], threads=1, limit=20.0, split_limit=5.0)
    vars(given).update(epochs=30, image=7, solver="highs")
    instance = searches.Instance("i", Path("n"), "box:0:1", opened=4)
    for mode in given.modes:
        instance.rows["neuron", mode] = row("time", work_s=20.0, open_end=1)
        instance.rows["auto", mode] = row()
    text = "\n".join(searches.page(given, [instance]))
    assert "> 20 / 1 (time, 75%)" in text
    assert ">= 20" in text
    assert "near the best on 1 of 1 rows" in text
    assert "All runs agree" in text


def test_growth_fits_an_exponent() -> None:
    shapes = ["2x100", "2x200", "2x400"]
    rows = [row(work_s=0.1 * 4**i) for i in range(3)]
    assert growth.exponent("width", shapes, rows) == "2.00"
    assert growth.exponent("width", shapes, [*rows[:2], row("time")]) == "-"
    assert growth.cell(row(), 3) == "1 (3)"
    assert growth.cell(row("time", open_end=1), 4) == "> 1 (4, 75%)"
    assert recipe_of("3x100", 2e-4).name == "3x100_l1-0.0002_seed-0"


def test_rounds_on_more_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert worker_times.makespan([3.0, 1.0, 1.0, 1.0], 1) == 6.0
    assert worker_times.makespan([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert worker_times.makespan([1.0, 1.0, 1.0, 3.0], 2) == 4.0
    assert worker_times.makespan([2.0], 1000) == 2.0
    rows = [{"round": 1, "seconds": 2.0}, {"round": 1, "seconds": 2.0}, {"round": 2, "seconds": 1.0}]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"tasks": [*rows, {"round": 2, "lost": "KilledWorker"}]}))
    monkeypatch.setattr(sys, "argv", ["worker_times.py", str(report), "--workers", "2"])
    worker_times.main()
    assert "3.00 s,   1.67 times as fast as one" in capsys.readouterr().out
