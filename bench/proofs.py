"""What certification and proofs cost: a table of searches, their certificates, proof files and checks.

    python bench/proofs.py FOLDER [SECONDS]

FOLDER holds networks and VNN-LIB files of `CASES`; what is missing there is left out and named. SECONDS limit each
search (default 300). Seconds are of processor time but for the solver's and the certifier's, which the report tells.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablenet import find_stable, load_onnx
from stablenet.check.claims import check
from stablenet.domain.spec import parse_domain

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MILP = ("network", "layer", "neuron", "single", "milp")


@dataclass(frozen=True)
class Case:
    """A network and a domain: files of the folder, or a specification."""

    network: str
    domain: str
    searches: tuple[str, ...] = ("auto", "network")


CASES = (
    Case("acasxu_1_1.onnx", "acasxu_prop_3.vnnlib.gz"),
    Case("acasxu_1_1.onnx", "acasxu_prop_1.vnnlib.gz", ("auto",)),
    Case("mnistfc_256x2.onnx", "mnistfc_prop_0_0.05.vnnlib.gz"),
    Case("mnistfc_256x4.onnx", "mnistfc_prop_0_0.03.vnnlib.gz", ("auto",)),
    Case("seed_mnist_100-100.onnx", "box:0:1"),
    Case("seed_mnist_200-200.onnx", "box:0:1"),
    Case("oval_cifar_base_kw.onnx", "oval_cifar_base_kw_img1697.vnnlib.gz"),
    Case("digits_3x100.onnx", "box:0:1", ("auto", "network", "neuron")),
    Case("digits_3x100.onnx", "box:0.3:0.7", ("auto", "network", "neuron")),
)
COLUMNS = (
    "network",
    "domain",
    "search",
    "neurons",
    "unknown",
    "MILP refutations",
    "certified",
    "leaves",
    "solver s",
    "certifier s",
    "proof kB",
    "bytes a refutation",
    "find CPU s",
    "check CPU s",
)


def main(folder: Path, seconds: float) -> None:
    """Print the table, row by row."""
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * 3 + "|--:" * (len(COLUMNS) - 3) + "|")
    for case in CASES:
        network = next((p for p in (folder / case.network, EXAMPLES / case.network) if p.exists()), None)
        domain = case.domain if case.domain.startswith("box:") else str(folder / case.domain)
        if network is None or not (case.domain.startswith("box:") or Path(domain).exists()):
            print(f"{case.network}, {case.domain}: not there", file=sys.stderr)
            continue
        for search in case.searches:
            print("| " + " | ".join(row(network, domain, case, search, seconds)) + " |", flush=True)


def row(file: Path, spec: str, case: Case, search: str, seconds: float) -> list[str]:
    """One run, checked; raises `AssertionError` where its proof does not stand."""
    network = load_onnx(file)
    domain = parse_domain(spec, network.n_inputs)
    with tempfile.TemporaryDirectory() as folder:
        proof, written = Path(folder) / "proof", Path(folder) / "report.json"
        began = time.process_time()
        report = find_stable(network, domain, search=search, threads=1, time_limit=seconds, proof=str(proof))
        found_s = time.process_time() - began
        report.write(written)
        began = time.process_time()
        result = check(network, written, proof, domain=domain)
        check_s, size = time.process_time() - began, proof.stat().st_size
    assert not result.problems, result.problems[:3]
    questions: list[dict[str, Any]] = [
        n[side] for n in report.data["neurons"] for side in ("positive", "negative") if n[side]["state"] == "refuted"
    ]
    claims = [question for question in questions if question["by"] in MILP]
    certified = [question["certified"]["leaves"] for question in claims if "certified" in question]
    proven = sum(question["rigorous"] for question in questions)
    share = f"{len(certified)} ({len(certified) / len(claims):.0%})" if claims else "-"
    solver = sum(solve["solver_s"] for solve in report.data["solves"])
    name = case.domain.removesuffix(".vnnlib.gz").removeprefix(case.network.removesuffix(".onnx") + "_")
    return [
        case.network.removesuffix(".onnx"),
        name,
        search,
        str(network.n_neurons),
        str(report.counts["unknown"]),
        str(len(claims)),
        share,
        f"{sum(certified):,}",
        f"{solver:.2f}",
        f"{report.data['seconds'].get('certify', 0.0):.2f}",
        f"{size / 1000:,.1f}",
        f"{size / max(1, proven):,.0f}",
        f"{found_s:.2f}",
        f"{check_s:.2f}",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 300.0)
