"""Runs campaigns for as long as told, keeps what they find, and runs a stored case again."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from hunt.campaign import COLUMNS, FATAL, Outcome
from hunt.killed import MARK, marked
from hunt.registry import CAMPAIGNS
from hunt.worker import left_behind, work

GRACE = 30.0
"""Seconds after the end of the time for cases that are still running; then they are given up."""

MOST_KEPT = 200
"""Cases that are kept as reproducers."""

TALK = 60.0
"""Seconds between lines on how far it is."""


def case_seed(seed: int, campaign: str, number: int) -> int:
    """The seed of a campaign's case: a pure function of the run's seed, whatever else runs."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{campaign}/{number}".encode()).digest()[:7], "big")


@dataclass
class Task:
    """A case under way."""

    campaign: str
    number: int
    folder: Path
    expected: float
    """Seconds that it was taken to need when it began."""
    began: float = field(default_factory=time.monotonic)


class Worker:
    """One process, started anew after a crash or a hang."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.task: Task | None = None
        self.mark = secrets.token_hex(16)
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe: Connection
        self.pipe, other = context.Pipe()
        before = os.environ.get(MARK)
        os.environ[MARK] = self.mark
        self.process = context.Process(target=work, args=(other, self.scratch), daemon=True)
        self.process.start()
        os.environ.pop(MARK) if before is None else os.environ.__setitem__(MARK, before)
        other.close()

    def give(self, task: Task, seed: int) -> None:
        """Begin a case."""
        self.task = task
        self.pipe.send((task.campaign, seed, task.folder))

    def log(self) -> str:
        """The end of what was printed."""
        path = self.scratch.with_suffix(".log")
        return path.read_text(errors="replace")[-1500:] if path.exists() else ""

    def stop(self) -> None:
        """End the process and all that it started."""
        self.pipe.close()
        for pid in marked(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.join()

    def restart(self) -> None:
        """A fresh process."""
        self.stop()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._start()


@dataclass
class Hunt:
    """A run of campaigns: for a time, or for a number of cases of each (``cases``)."""

    campaigns: Sequence[str]
    seed: int
    output: Path
    workers: int = 2
    minutes: float = 30.0
    cases: int | None = None
    totals: dict[str, Outcome] = field(default_factory=dict)
    kept: int = 0

    def run(self) -> bool:
        """Run to the end; returns whether nothing was found that must not be."""
        self.totals = {name: Outcome() for name in self.campaigns}
        self.numbers = dict.fromkeys(self.campaigns, 0)
        self.spent = dict.fromkeys(self.campaigns, 0.0)
        self.began = self.spoke = time.monotonic()
        running = self.output / f"running-{self.seed}"
        shutil.rmtree(running, ignore_errors=True)
        team = [Worker(running / f"worker{i}") for i in range(self.workers)]
        try:
            self._go(team, running)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        finally:
            for worker in team:
                worker.stop()
            shutil.rmtree(running, ignore_errors=True)
        return not any(outcome.failed for outcome in self.totals.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def _go(self, team: list[Worker], running: Path) -> None:
        while True:
            for worker in team:
                name = self._next()
                if worker.task is None and name is not None:
                    number = self.numbers[name]
                    self.numbers[name] += 1
                    folder = running / f"{name}-{number}"
                    task = Task(name, number, folder, self._usual(name))
                    worker.give(task, case_seed(self.seed, name, number))
                    self.spent[name] += task.expected
            busy = [worker for worker in team if worker.task is not None]
            if not busy or (self.cases is None and self.elapsed > 60.0 * self.minutes + GRACE):
                return
            self._listen(busy)
            if time.monotonic() - self.spoke > TALK:
                self.spoke = time.monotonic()
                runs = sum(outcome.counts["runs"] for outcome in self.totals.values())
                print(f"{self.elapsed / 60:.0f} minutes: {runs} runs, {self.kept} kept", flush=True)

    def _next(self) -> str | None:
        """The campaign that has had the least of its share; None at the end."""
        if self.cases is not None:
            return next((name for name in self.campaigns if self.numbers[name] < self.cases), None)
        if self.elapsed > 60.0 * self.minutes:
            return None
        return min(self.campaigns, key=lambda name: self.spent[name] / CAMPAIGNS[name].share)

    def _usual(self, name: str) -> float:
        runs = self.totals[name].counts["runs"]
        return self.spent[name] / runs if runs else 1.0

    def _listen(self, busy: list[Worker]) -> None:
        """Take what workers send; a worker that died or hangs is a finding."""
        ready = wait([worker.pipe for worker in busy], timeout=0.5)
        for worker in busy:
            task = worker.task
            if task is None:
                continue
            took = time.monotonic() - task.began
            if worker.pipe in ready:
                try:
                    self._close(worker, task, worker.pipe.recv(), took)
                except (EOFError, OSError):
                    self._lost(
                        worker, task, "CRASH", f"the process ended by {worker.process.exitcode}: {worker.log()}", took
                    )
            elif took > CAMPAIGNS[task.campaign].patience:
                self._lost(worker, task, "HANG", f"no answer in {took:.0f} s: {worker.log()}", took)

    def _lost(self, worker: Worker, task: Task, kind: str, message: str, took: float) -> None:
        outcome = Outcome()
        outcome.counts["runs"] += 1
        worker.process.join(1.0)
        outcome.add(kind, message)
        self._close(worker, task, outcome, took)
        worker.restart()

    def _close(self, worker: Worker, task: Task, outcome: Outcome, took: float) -> None:
        worker.task = None
        total = self.totals[task.campaign]
        self.spent[task.campaign] += took - task.expected
        total.counts.update(outcome.counts)
        total.findings += outcome.findings
        if outcome.findings:
            self._keep(task, outcome)
        shutil.rmtree(task.folder, ignore_errors=True)

    def _keep(self, task: Task, outcome: Outcome) -> None:
        """The folder as a reproducer, and a line for each finding."""
        target = self.output / f"{task.campaign}-{self.seed}-{task.number}"
        for finding in outcome.findings[:3]:
            print(f"{finding.kind} {target}: {finding.message.strip().splitlines()[-1][:300]}", flush=True)
        if self.kept >= MOST_KEPT:
            return
        self.kept += 1
        shutil.rmtree(target, ignore_errors=True)
        if task.folder.exists():
            shutil.copytree(task.folder, target, symlinks=True)
        target.mkdir(exist_ok=True)
        text = "\n\n".join(f"{finding.kind}: {finding.message}" for finding in outcome.findings)
        (target / "findings.txt").write_text(f"{text}\n\nAgain: python -m tests.hunt --replay {target}\n")

    def summary(self) -> dict[str, Any]:
        """Counts and findings by campaign, as plain values."""
        return {
            "seed": self.seed,
            "seconds": round(self.elapsed, 1),
            "campaigns": {name: {**outcome.counts, **kinds(outcome)} for name, outcome in self.totals.items()},
        }


def kinds(outcome: Outcome) -> dict[str, int]:
    """Number of findings of each kind, those without any too."""
    found = [finding.kind for finding in outcome.findings]
    return {kind: found.count(kind) for kind in (*FATAL, "CONTRADICTION")}


def table(totals: dict[str, Outcome]) -> str:
    """The counts as text, a line for each campaign and the sum."""
    found = ("WRONG", "TRACEBACK", "LEAK")
    lines = [f"{'campaign':<12}" + "".join(f"{name:>17}" for name in (*COLUMNS, *found, "other findings"))]
    whole = Outcome()
    for name, outcome in [*totals.items(), ("all", whole)]:
        number = kinds(outcome)
        others = sum(number.values()) - sum(number[kind] for kind in found)
        values = [outcome.counts[column] for column in COLUMNS] + [number[kind] for kind in found] + [others]
        extra = ", ".join(f"{value} {key}" for key, value in sorted(outcome.counts.items()) if key not in COLUMNS)
        named = ", ".join(f"{value} {kind}" for kind, value in number.items() if value and kind not in found)
        words = "; ".join(text for text in (named, extra if name != "all" else "") if text)
        lines.append(f"{name:<12}" + "".join(f"{value:>17,}" for value in values) + (f"  ({words})" if words else ""))
        whole.counts.update(outcome.counts)
        whole.findings += outcome.findings
    return "\n".join(lines)


def replay(folder: Path) -> bool:
    """Check a stored case again; prints what is found, returns whether nothing is."""
    folder = folder.resolve()
    job = json.loads((folder / "case.json").read_text())
    print(f"{job['campaign']}, seed {job['seed']}: {job.get('shell', '')}")
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="hunt-") as scratch:
        tempfile.tempdir = scratch
        try:
            outcome = CAMPAIGNS[job["campaign"]]().judged(job, folder)
            left_behind(Path(scratch), outcome)
        finally:
            tempfile.tempdir = before
    for finding in outcome.findings:
        print(f"{finding.kind}: {finding.message}")
    print(table({job["campaign"]: outcome}))
    return not outcome.failed


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 0 if nothing false was found, 1 if something was."""
    parser = argparse.ArgumentParser(prog="python -m tests.hunt", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="as printed by the run to repeat; default: a fresh one")
    parser.add_argument("--output", type=Path, default=Path("build/hunt"), help="folder for what is found")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--campaign", action="append", choices=list(CAMPAIGNS), help="only this; may be given again")
    parser.add_argument("--cases", type=int, help="this many cases of each campaign instead of a time")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="run a stored case again")
    chosen = parser.parse_args(words)
    if chosen.replay is not None:
        return 0 if replay(chosen.replay) else 1
    seed = secrets.randbelow(2**31) if chosen.seed is None else chosen.seed
    hunt = Hunt(
        chosen.campaign or list(CAMPAIGNS),
        seed,
        chosen.output.resolve(),
        max(1, chosen.workers),
        chosen.minutes,
        chosen.cases,
    )
    length = f"{chosen.minutes:g} minutes" if chosen.cases is None else f"{chosen.cases} cases of each campaign"
    print(f"hunt: seed {seed}, {hunt.workers} workers, {length}", flush=True)
    hunt.output.mkdir(parents=True, exist_ok=True)
    clean = hunt.run()
    print(table(hunt.totals))
    (hunt.output / f"summary-{seed}.json").write_text(json.dumps(hunt.summary(), indent=1) + "\n")
    print("nothing false was found" if clean else f"found: see {hunt.output}", f"(seed {seed})")
    return 0 if clean else 1
