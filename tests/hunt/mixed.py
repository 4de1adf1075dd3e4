"""Campaign: reports of another network or domain, given to ``--resume``, ``compress`` and ``verify``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from oracle.plain import Region

from hunt.campaign import Campaign, Job, Outcome, Random
from hunt.networks import Layers, dense, finished, regions, sparse, tied
from hunt.product import domain_of, find
from hunt.truth import Truth, region_from_json, region_to_json
from hunt.verdicts import judge_found, pick

CHANGES = ("network", "ulp", "external data", "in memory", "domain", "domain ulp", "row", "nothing", "witness")


def write_network(folder: Path, layers: Layers, n_inputs: int, *, external: bool) -> None:
    """``network.onnx`` in a folder of its own, its numbers beside it in ``weights.bin`` if asked."""
    builder, tensor = dense(layers, n_inputs)
    model = onnx.load_from_string(builder.finish(tensor)[0])
    folder.mkdir()
    onnx.save_model(
        model, folder / "network.onnx", save_as_external_data=external, location="weights.bin", size_threshold=0
    )


class Mixed(Campaign):
    """What does not belong must be refused; what belongs must be taken, its witnesses replayed and not believed."""

    name = "mixed"
    title = "reports of another network or domain must be refused"
    share = 1.0

    def make(self, rng: Random, folder: Path) -> Job:
        layers, n, domain = (tied if rng.random() < 0.5 else sparse)(rng)
        change = pick(rng, CHANGES)
        other, region = [(w.copy(), b.copy()) for w, b in layers], domain
        first = domain[0]
        if change in ("network", "external data", "in memory"):
            other = [(-w, b + 1.0) for w, b in layers]
        elif change == "ulp":
            other[0][1][0] = np.nextafter(other[0][1][0], np.inf)
        elif change == "domain":
            region = regions(rng, n)
        elif change == "domain ulp":
            upper = (float(np.nextafter(first.upper[0], np.inf)), *first.upper[1:])
            region = (Region(first.lower, upper, first.a, first.b), *domain[1:])
        elif change == "row":
            middle = sum(first.lower) / 2 + sum(first.upper) / 2
            region = (Region(first.lower, first.upper, (*first.a, (1.0,) * n), (*first.b, middle)), *domain[1:])
        case = finished(rng, "mixed", other, n, domain, small=True)
        for name, some in (("first", layers), ("second", other)):
            write_network(folder / name, some, n, external=change == "external data")
        return {
            "change": change,
            "options": {"search": pick(rng, ["off", "branch", "auto"]), "threads": 1, "time_limit": 10.0},
            "seed of changes": int(rng.integers(2**31)),
            "region": [region_to_json(r) for r in region],
            "truth": case.truth.to_json(),
            "shell": "stablenet find first/network.onnx … --output report.json, then second/network.onnx with --resume",
        }

    def check(self, job: Job, folder: Path, outcome: Outcome) -> None:
        truth = Truth.from_json(job["truth"])
        region = [region_from_json(r) for r in job["region"]]
        domain = truth.regions
        change, options = job["change"], job["options"]
        nets: list[Any] = [folder / name / "network.onnx" for name in ("first", "second")]
        if change == "in memory":
            from stablenet import load_onnx

            nets = [dataclasses.replace(load_onnx(path), file="", sha256="") for path in nets]
        made = find(nets[0], domain, options)
        if made.report is None or made.contradiction is not None:
            outcome.counts["no report"] += 1
            return
        if change == "witness":
            _spoil(made.report, np.random.default_rng(job["seed of changes"]))
        report = folder / "report.json"
        report.write_text(json.dumps(made.report))
        same = change not in ("network", "ulp", "external data", "in memory") and _same(domain, region)
        outcome.counts[change] += 1
        found = find(nets[1], region, {**options, "resume": str(report)})
        outcome.counts["refused"] += found.refused is not None
        if not same and found.refused is None:
            outcome.add("WRONG", f"the report of another {change} was taken by --resume")
        if same and change == "nothing" and found.refused is not None:
            outcome.add("WRONG", f"the report of the same network and domain was refused: {found.refused}")
        if same:
            judge_found(found, folder / "second" / "network.onnx", truth, outcome)
        elif change != "in memory":
            self._others(folder, region, report, outcome, change)

    @staticmethod
    def _others(folder: Path, region: list[Region], report: Path, outcome: Outcome, change: str) -> None:
        from stablenet import compress, verify
        from stablenet.core.errors import StablenetError

        network, domain = folder / "second" / "network.onnx", domain_of(region)
        calls = {
            "compress": lambda: compress(network, report, domain=domain),
            "verify": lambda: verify(network, network, domain, report=report, time_limit=5.0),
        }
        for name, call in calls.items():
            try:
                call()
            except StablenetError as error:
                if error.exit_code != 2:
                    outcome.add("CONTRACT", f"{name}: {type(error).__name__} where a refusal is expected: {error}")
            else:
                outcome.add("WRONG", f"the report of another {change} was taken by {name}")


def _same(domain: Any, region: Any) -> bool:
    return bool(domain_of(domain).to_json() == domain_of(region).to_json())


def _spoil(report: dict[str, Any], rng: Random) -> None:
    """Move witnesses, and call open questions witnessed."""
    for point in report["witnesses"]:
        if rng.random() < 0.5:
            j = int(rng.integers(len(point)))
            point[j] += float(rng.normal())
    if not report["witnesses"]:
        return
    for neuron in report["neurons"]:
        for side in ("positive", "negative"):
            if neuron[side]["state"] == "open" and rng.random() < 0.7:
                neuron[side] = {
                    "state": "witnessed",
                    "witness": int(rng.integers(len(report["witnesses"]))),
                    "by": "corner",
                }
