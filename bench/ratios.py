"""Two records of the benchmarks, compared by ratio: `python bench/ratios.py NEW.json [BASELINE.json]`.

A benchmark's ratio is its least time now over its least time in the baseline; the least time suffers least from other
work on the machine. Another machine makes all of them faster or slower alike, so *relative* is the ratio divided by
the median of all ratios: what became slower than the rest did. It is indicative only: machines differ in more than
speed. With ``--fail R`` a relative ratio above R ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median

BASELINE = Path(__file__).resolve().parent / "baseline.json"


def least_times(path: Path) -> dict[str, float]:
    """Seconds of each benchmark's fastest round."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return {entry["fullname"]: float(entry["stats"]["min"]) for entry in entries}
    except OSError as error:
        raise SystemExit(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise SystemExit(f"{path}: no record of pytest-benchmark (--benchmark-json)") from None


def ratios(new: dict[str, float], old: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Ratio and relative ratio of each benchmark that both hold."""
    both = {name: new[name] / old[name] for name in old if name in new}
    middle = median(both.values()) if both else 1.0
    return {name: (ratio, ratio / middle) for name, ratio in both.items()}


def lines(new: dict[str, float], old: dict[str, float]) -> Iterator[str]:
    """The table, the slowest-grown first, and what only one of the two holds."""
    found = ratios(new, old)
    width = max(map(len, found), default=9)
    yield f"{'benchmark':{width}}  {'baseline s':>11} {'now s':>11} {'ratio':>7} {'relative':>9}"
    for name, (ratio, relative) in sorted(found.items(), key=lambda item: -item[1][1]):
        yield f"{name:{width}}  {old[name]:11.6f} {new[name]:11.6f} {ratio:7.2f} {relative:9.2f}"
    for what, names in (("only in the baseline", old.keys() - new.keys()), ("new", new.keys() - old.keys())):
        yield from (f"{what}: {name}" for name in sorted(names))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Two records of the benchmarks, compared by ratio.")
    parser.add_argument("new", type=Path)
    parser.add_argument("baseline", type=Path, nargs="?", default=BASELINE)
    parser.add_argument("--fail", type=float, metavar="R", help="exit code 1 where a relative ratio is above R")
    given = parser.parse_args()
    new, old = least_times(given.new), least_times(given.baseline)
    print("\n".join(lines(new, old)))
    slower = [name for name, (_, relative) in ratios(new, old).items() if given.fail and relative > given.fail]
    if slower:
        raise SystemExit(f"slower than {given.fail:g} times the baseline, relative to the rest: {', '.join(slower)}")


if __name__ == "__main__":
    main()
