"""One search as a run of a comparison, and what it cost; rows are kept as JSON lines.

A run is what it is in `stablenet compare`: the command `find` in processes of its own, below a watchdog that enforces
limits and measures from outside. A row that is in the file already, and was not refused and did not crash, is not
measured again: a command may be interrupted. Its key is a digest of the network's and the domain's contents and of the
options. ``code`` is a digest of the package's sources, so that a table can say if its rows are of different states.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

GRACE = 30.0
"""Seconds that a search may overrun its limit before its process is killed; the row's outcome is then "hang"."""

NO_LIMIT = 1e7
"""Seconds after which a search without a time limit is ended."""

AGAIN = {"crash", "refused"}
"""Outcomes of rows that are measured again."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """A search to measure; ``options`` are those of `find_stable`."""

    network: str
    domain: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Digest of all that the row depends on but the code."""
        content = [_contents(self.network), _domain_contents(self.domain), self.options]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _contents(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _domain_contents(spec: str) -> str:
    from stablenet.compare.grid import split_domain

    before, path, after = split_domain(spec)
    return spec if path is None else f"{before}{_contents(path)}{after}"


@cache
def code_digest() -> str:
    """Digest of the package's sources."""
    digest = hashlib.sha256()
    for folder in ("stablenet", "backends", "formulations"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Results:
    """Rows in a file of JSON lines, by key; the last one of a key counts."""

    def __init__(self, path: Path, *, again: bool = False) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and not again:
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # the last line of a run that was killed
                    row = json.loads(line)
                    if row["outcome"] not in AGAIN:
                        self.rows[row["key"]] = row

    def measure(self, request: Measurement, name: str) -> Row:
        """The row of a request, measured if it is not there yet."""
        key = request.key
        if key not in self.rows:
            row: Row = {"key": key, "name": name, **asdict(request), "code": code_digest(), **run(request)}
            self.rows[key] = row
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(row))
            print(f"{name}: {row['outcome']}, {row.get('work_s', 0.0):.2f} s", file=sys.stderr, flush=True)
        return self.rows[key]

    def opened(self, request: Measurement, name: str) -> int | None:
        """Questions that bounds and falsifying leave pending, from a run without a search; None if that failed."""
        options = {**request.options, "search": "off"}
        row = self.measure(Measurement(request.network, request.domain, options), f"{name} (bounds and falsifying)")
        return row.get("open_end")


def run(request: Measurement) -> Row:
    """Measure a search; it and all below it are ended when the time is up.

    ``cpu_s`` and ``peak_mb`` are those of all its processes, start included; ``work_s`` is from the network in memory
    to the last verdict.
    """
    from stablenet.compare.grid import Instance
    from stablenet.compare.plan import command_arguments, input_files
    from stablenet.compare.rows import outcome_of
    from stablenet.compare.run.execute import Job, execute
    from stablenet.core.options import Options

    options = Options.from_json(request.options)
    instance = Instance("", Path(request.network), request.domain)
    wall = NO_LIMIT if options.time_limit is None else options.time_limit + GRACE
    job = Job(command_arguments(instance, options), input_files(instance), wall, options.memory_limit, options.threads)
    result = execute(job)
    watched = result.watched
    report = None if result.report is None else json.loads(result.report)
    outcome, reason = outcome_of(watched["exit_code"], watched["killed"], watched["stderr"], report)
    row = {"outcome": outcome, "reason": reason, **{key: watched[key] for key in ("cpu_s", "peak_mb", "load")}}
    if report is None:
        return row
    if outcome in {"solved", "incomplete", "interrupted", "optimal"}:  # named as the report does
        row["outcome"] = "complete" if report["status"] == "complete" else report["stopped_by"]
    return row | from_report(report)


def from_report(report: Row) -> Row:
    """What a row keeps of a report."""
    from stablenet.compare.rows import pending_in, states_of

    seconds = report["seconds"]
    before = seconds["bounds"] + seconds["falsify"]
    states = states_of(report)
    sides = [neuron[side] for neuron in report["neurons"] for side in ("positive", "negative")]
    return {
        "neurons": len(report["neurons"]),
        "inputs": report["network"]["n_inputs"],
        "counts": report["counts"],
        "open_end": pending_in(report),
        "by": dict(Counter(side["by"] for side in sides if side["state"] != "open").most_common()),
        "seconds": seconds,
        "work_s": before + seconds["search"],
        "solves": _solves(report["solves"]),
        "states": ["".join(map(str, side)) for side in states.tolist()],
    }


def _solves(solves: Iterable[Row]) -> dict[str, Row]:
    """Of each source of solves: how many, all seconds, nodes, and the largest numbers of rows and binaries."""
    found: dict[str, Row] = {}
    for solve in solves:
        row = found.setdefault(solve["by"], {"solves": 0, "nodes": 0, "rows": 0, "binaries": 0})
        row["solves"] += 1
        row["nodes"] += solve["nodes"] or 0
        for key in ("rows", "binaries"):
            row[key] = max(row[key], solve[key] or 0)
        for key, value in solve.items():
            if key.endswith("_s"):
                row[key] = row.get(key, 0.0) + (value or 0.0)
    return found


def share_closed(row: Row, opened: int | None) -> float | None:
    """Share that the search closed of the questions open after bounds and falsifying; None where it is not known."""
    if opened is None or "open_end" not in row:
        return None
    return 1.0 - float(row["open_end"]) / opened if opened else 1.0


# Tables


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def circumstances(rows: Sequence[Row]) -> Iterator[str]:
    """On what machine and with what code rows were measured."""
    from stablenet.compare.run.machine import describe_machine
    from stablenet.report.report import package_versions

    machine, loads = describe_machine(), [row["load"] for row in rows]
    versions = ", ".join(f"{name} {number}" for name, number in package_versions().items() if name != "stablenet")
    yield f"{machine['cpu']}, {machine['cores']} cores, load {min(loads):.1f} to {max(loads):.1f} as rows began;"
    yield f"Python {machine['python']}, {versions}."
    codes = sorted({row["code"] for row in rows})
    if len(codes) > 1:
        yield f"\n**Rows are of {len(codes)} states of the code ({', '.join(codes)}); `--again` measures them anew.**"


def seconds(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def end_all_when_told() -> None:
    """Let SIGTERM raise, so that the search under way is ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))


def publish(lines: Iterable[str], output: Path | None) -> None:
    """Print a page, and write it if there is a file for it."""
    text = "\n".join(lines) + "\n"
    print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
