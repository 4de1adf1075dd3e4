"""What a campaign is: it makes random cases, and judges what the product says of each.

A case is a folder: the files that the product is given, and ``case.json`` with everything else (options, truth).
`check` reads nothing but that folder, so a folder that is kept can be checked again.
"""

from __future__ import annotations

import json
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

Job = dict[str, Any]
Random = np.random.Generator

FATAL = ("WRONG", "CONTRACT", "TRACEBACK", "LEAK", "HANG", "CRASH", "MEMORY")
"""Kinds of findings that make a hunt fail. A CONTRADICTION that the product itself reports is kept and listed only:
a solver lied and was found out."""

COLUMNS = ("runs", "questions", "verdicts", "unknown", "refused", "solver failures")
"""Counts that every campaign prints; others are printed behind them."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: its kind, one of `FATAL` or ``CONTRADICTION``, and what was seen."""

    kind: str
    message: str


@dataclass
class Outcome:
    """What came of one case, or of many."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, message: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind, message))

    @property
    def failed(self) -> bool:
        """Whether anything was found that must not be."""
        return any(finding.kind in FATAL for finding in self.findings)


class Campaign(ABC):
    """One family of cases. A subclass in a module of this package, named in `hunt.registry`, is all that it takes."""

    name: ClassVar[str]
    title: ClassVar[str]
    share: ClassVar[float] = 1.0
    """Share of the time, relative to the other campaigns."""
    patience: ClassVar[float] = 240.0
    """Seconds after which a case counts as hung: a guard, far more than any case takes."""

    @abstractmethod
    def make(self, rng: Random, folder: Path) -> Job:
        """Write the files of a random case; returns all else that `check` needs, as plain JSON values."""

    @abstractmethod
    def check(self, job: Job, folder: Path, outcome: Outcome) -> None:
        """Give the case to the product, compare its answers with the truth, count, and note what is wrong."""

    def run(self, seed: int, folder: Path) -> Outcome:
        """Make and check the case of a seed in a folder."""
        folder.mkdir(parents=True)
        job = {"campaign": self.name, "seed": seed, **self.make(np.random.default_rng(seed), folder)}
        (folder / "case.json").write_text(json.dumps(job, indent=1))
        return self.judged(job, folder)

    def judged(self, job: Job, folder: Path) -> Outcome:
        """`check`, where an exception that is not meant for users counts as a finding."""
        outcome = Outcome()
        outcome.counts["runs"] += 1
        try:
            self.check(job, folder, outcome)
        except Exception:
            outcome.add("TRACEBACK", traceback.format_exc())
        return outcome
