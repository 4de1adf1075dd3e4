"""All formulations x {interval, crown, lp} on two public networks: one table.

    python bench/formulation_table.py NETWORKS --output build/formulations --time-limit 60 --workers 1

NETWORKS is a folder that holds the files of `INSTANCES`. The runs are a sweep of `stablenet compare`, each a process
of its own, from one frozen set of questions for each instance; the sizes and the bound of the linear relaxation are
taken beside, in processes of their own too. What is there already is not run again, so the command may be interrupted.
Writes ``formulations.md`` in the output folder. Exit code 4 if two runs contradict each other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from formulation_lines import table

from stablenet.compare.store import Store

INSTANCES = (
    ("mnistfc_256x2, ball 0.05", "mnistfc_256x2.onnx", "mnistfc_prop_0_0.05.vnnlib.gz"),
    ("acasxu_1_1, prop_3", "acasxu_1_1.onnx", "acasxu_prop_3.vnnlib.gz"),
)
BOUNDS = ("interval", "crown", "lp")
METHODS = {
    ("network", "highs"): (
        "bigm", "bigm-loose", "ideal:root", "partition:2", "partition:4", "hull", "gdp:bigm", "gdp:hull", "gdp:mbigm",
    ),
    ("network", "scip"): ("bigm", "indicator", "sos1", "ideal:cuts"),
    ("neuron", "highs"): ("relaxed",),
}  # fmt: skip
"""Formulations by search and solver: with SCIP those that HiGHS cannot take, and `bigm` to compare the two by."""

FACTS_LIMIT = 300.0
"""Seconds for the figures of one model."""

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description="All formulations x bounds on two public networks.")
    parser.add_argument("networks", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    missing = [f for _, *files in INSTANCES for f in files if not (given.networks / f).is_file()]
    if missing:
        parser.error(f"{given.networks} lacks {', '.join(missing)}")
    given.output.mkdir(parents=True, exist_ok=True)
    sweep = given.output / "sweep"
    code = compare(write_grid(given), sweep, given.workers)
    if code not in {0, 4}:
        raise SystemExit(code)
    with Store(sweep) as store:
        rows = store.rows()
        wrong = json.loads(store.meta("contradictions") or "[]")
        frozen = {entry["name"]: sweep / "frozen" / f"{entry['frozen']}.json" for entry in _instances(store)}
    known = all_facts(given, frozen)
    command = f"python bench/formulation_table.py NETWORKS --time-limit {given.time_limit:g} --workers {given.workers}"
    text = "\n".join(table(rows, known, wrong, command=command)) + "\n"
    (given.output / "formulations.md").write_text(text)
    print(text)
    raise SystemExit(code)


def _instances(store: Store) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(store.meta("instances") or "[]")
    return found


def write_grid(given: argparse.Namespace) -> Path:
    """The grid, as `stablenet compare` reads it. Seeds are all 0, and nothing is permuted."""
    head = f'name = "formulations x bounds"\ntime_limit = {given.time_limit}\npermute = false\n'
    parts = [head, '[frozen]\nbounds = "crown"\n']
    for name, network, domain in INSTANCES:
        files = [json.dumps(str((given.networks / file).resolve())) for file in (network, domain)]
        parts.append(f"[[instances]]\nname = {json.dumps(name)}\nnetwork = {files[0]}\ndomain = {files[1]}\n")
    for (search, solver), encodings in METHODS.items():
        axes = {"formulation": list(encodings), "bounds": list(BOUNDS), "search": search, "solver": solver}
        parts.append("[[runs]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in axes.items()))
    path = Path(given.output / "grid.toml")
    path.write_text("\n".join(parts))
    return path


def compare(grid: Path, sweep: Path, workers: int) -> int:
    """Run the sweep; its exit code."""
    command = ["compare", str(grid), "--output", str(sweep), "--resume", "--workers", str(workers)]
    return subprocess.run([sys.executable, "-m", "stablenet.cli.main", *command], check=False).returncode


def all_facts(given: argparse.Namespace, frozen: dict[str, Path]) -> dict[str, Any]:
    """Figures of every model by ``instance|formulation|bounds``, kept in ``facts.json`` as they come."""
    path = given.output / "facts.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    encodings = dict.fromkeys(encoding for group in METHODS.values() for encoding in group)
    for (name, network, domain), encoding, bounds in product(INSTANCES, encodings, BOUNDS):
        key = f"{name}|{encoding}|{bounds}"
        if key not in known:
            arguments = [given.networks / network, given.networks / domain, encoding, bounds, frozen[name]]
            known[key] = one_fact([str(argument) for argument in arguments])
            path.write_text(json.dumps(known, indent=1))
            print(key, known[key], flush=True)
    return known


def one_fact(arguments: list[str]) -> dict[str, Any]:
    """Figures of one model, or why there are none."""
    command = [sys.executable, str(HERE / "formulation_facts.py"), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FACTS_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {FACTS_LIMIT:g} s"}
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
        return {"failed": f"exit code {done.returncode}: {last}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
