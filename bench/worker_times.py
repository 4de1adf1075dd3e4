"""How long a run that was shared out would take on more workers, from the times of its tasks.

    python bench/worker_times.py REPORT.json [--workers 1,2,8,64,1000] [--overhead SECONDS]

Tasks of a round are given in their order to the worker that is free first; a round begins when the one before has
ended. Two things limit it: no more than the tasks of a round work at a time, and a round lasts as long as its longest
task. Times are processor seconds; ``--overhead`` is added to each task.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def makespan(tasks: Sequence[float], workers: int) -> float:
    """When the last task is done, if each goes to the worker that is free first."""
    free = [0.0] * min(workers, max(1, len(tasks)))
    for seconds in tasks:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def rounds_of(report: dict[str, Any], overhead: float) -> list[list[float]]:
    """The seconds of the tasks of each round."""
    rounds: dict[int, list[float]] = defaultdict(list)
    for row in report.get("tasks", []):
        if "seconds" in row:
            rounds[row["round"]].append(float(row["seconds"]) + overhead)
    return [rounds[number] for number in sorted(rounds)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--workers", default="1,2,4,8,16,64,256,1000")
    parser.add_argument("--overhead", type=float, default=0.0)
    chosen = parser.parse_args()
    rounds = rounds_of(json.loads(chosen.report.read_text(encoding="utf-8")), chosen.overhead)
    if not rounds:
        parser.error(f"{chosen.report}: no tasks")
    total = sum(map(sum, rounds))
    longest = sum(map(max, rounds))
    tasks = [len(some) for some in rounds]
    print(f"{sum(tasks)} tasks in {len(rounds)} rounds (largest {max(tasks)}), {total:.2f} s in all")
    print(f"the longest tasks of the rounds take {longest:.2f} s: no more than {total / longest:.1f} times as fast")
    for workers in map(int, chosen.workers.split(",")):
        seconds = sum(makespan(some, workers) for some in rounds)
        print(f"{workers:6} workers: {seconds:9.2f} s, {total / seconds:6.2f} times as fast as one")


if __name__ == "__main__":
    main()
