"""The report: what was found, with evidence, as the file ``stablenet.report/1``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stablenet._version import __version__
from stablenet.core import html
from stablenet.core.certificates import CERTIFIER, Certificate
from stablenet.core.errors import ReportError
from stablenet.core.files import write_text
from stablenet.core.ledger import Ledger
from stablenet.core.questions import NEGATIVE, POSITIVE, SIDE_NAMES, SIDES, Side, State, Verdict
from stablenet.core.terminal import encodable, plain
from stablenet.domain.regions import Domain
from stablenet.report.schema import SCHEMA, VERDICTS, domain_of_report, read_report
from stablenet.report.words import arithmetic_of

if TYPE_CHECKING:  # imported for types alone, so that reading a report starts fast
    from stablenet.core.network import Network
    from stablenet.falsify.witness import Witnesser

PACKAGES = ("numpy", "scipy", "pyomo", "onnx", "highspy", "pyscipopt", "gurobipy", "cbcbox")


def package_versions() -> dict[str, str]:
    """Versions of this package and of those that its results may depend on, where installed."""
    found = {"stablenet": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


STEPS = ("start", "load", "bounds", "falsify", "search")
"""What a run's time is spent on, in order: ``start`` is what processes take to start; then comes ``report``, which is
handing on what was found, ending the engine process and making the report."""


def network_to_json(network: Network, domain: Domain | None = None) -> dict[str, Any]:
    """The report's description of a network, and on what domain it is looked at.

    Where the import rounded, ``function`` is "folded": verdicts speak of the network as folded. ``import_error`` bounds
    what rounding did to each coefficient, ``import_difference`` (with a domain) what that may do to the pre-activations
    of each layer, None where this overflows.
    """
    described = _described(network)
    if not network.exact:
        described |= {"function": "folded", "import_error": _bound(network.import_error)}
        if domain is not None:
            from stablenet.bounds.folded import folding_difference

            described["import_difference"] = [_bound(value) for value in folding_difference(network, domain)]
    return described


def _described(network: Network) -> dict[str, Any]:
    return {
        "file": network.file,
        "sha256": network.identity,
        "n_inputs": network.n_inputs,
        "n_outputs": network.n_outputs,
        "exact_import": network.exact,
        "layers": [
            {"layer": k, "name": layer.name, "size": layer.size, "shape": list(layer.shape), "origin": layer.origin}
            for k, layer in enumerate(network.layers)
        ],
    }


def domain_from_json(data: dict[str, Any]) -> Domain:
    """The domain of a report; raises `ReportError` where it is none."""
    return domain_of_report({"domain": data})


@dataclass(frozen=True)
class Report:
    """A finished report; ``data`` is the JSON object of the file."""

    data: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether no neuron is unknown."""
        return bool(self.data["status"] == "complete")

    @property
    def stopped_by(self) -> str | None:
        """Why it is not complete."""
        reason = self.data["stopped_by"]
        return None if reason is None else str(reason)

    @property
    def counts(self) -> dict[str, int]:
        """Number of neurons per verdict, and of those with rigorous evidence."""
        return dict(self.data["counts"])

    @property
    def contradictions(self) -> list[dict[str, Any]]:
        """Refutations that a witness has disproved."""
        return list(self.data.get("contradictions", []))

    def verdicts(self) -> list[list[str]]:
        """Verdicts by layer and neuron."""
        result: list[list[str]] = [[] for _ in self.data["network"]["layers"]]
        for neuron in self.data["neurons"]:
            result[neuron["layer"]].append(neuron["verdict"])
        return result

    def __repr__(self) -> str:
        counts = self.data["counts"]
        stable = counts["stably_active"] + counts["stably_inactive"]
        state = "complete" if self.complete else f"stopped by {self.stopped_by}"
        file = self.data["network"].get("file") or "network"
        return (
            f"<Report on {plain(str(file))!r}: {stable} stable, {counts['unstable']} unstable, "
            f"{counts['unknown']} unknown; {state}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: verdicts by layer, and a map of the neurons."""
        layers, verdicts = self.data["network"]["layers"], self.verdicts()
        rows = [
            (layer["layer"], layer["name"], layer["size"], *(found.count(verdict) for verdict in VERDICTS))
            for layer, found in zip(layers, verdicts, strict=True)
        ]
        headings = ("layer", "name", "neurons", *(verdict.replace("_", " ") for verdict in VERDICTS))
        return f"<div>{html.text(repr(self))}</div>{html.table(headings, rows)}{html.neuron_map(verdicts)}"

    def to_frame(self) -> Any:
        """A pandas ``DataFrame`` with a row for each neuron, indexed by layer and neuron.

        Columns: ``verdict``, ``lower``, ``upper``, and for either question ``positive`` and ``negative`` its state,
        with ``_by`` what closed it and ``_rigorous`` whether its refutation is rigorous. Raises `NotInstalledError`
        without pandas.
        """
        from stablenet.report.frame import frame_of

        return frame_of(self.data["neurons"])

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return self.data

    def write(self, path: str | Path) -> None:
        """Write the file, atomically, over no other file of the run: raises `InputError` then."""
        from stablenet.report.files import beside_report

        with beside_report(self.data, path, "the report"):
            write_text(Path(path), dumps(self.data))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file; raises `ReportError` where it is no report."""
        return cls(read_report(path))


def dumps(data: dict[str, Any]) -> str:
    """JSON text that UTF-8 can hold; numbers round-trip exactly, non-finite ones are refused."""
    return encodable(json.dumps(data, allow_nan=False, ensure_ascii=False), "utf-8") + "\n"


def _bound(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


WITNESSED, REFUTED = int(State.WITNESSED), int(State.REFUTED)
NAMES = {int(verdict): verdict.name.lower() for verdict in Verdict}


class _Questions:
    """The JSON of questions, from a ledger's arrays as lists: a report of 40,000 neurons is made within the second
    that a run has after its time limit.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.states = ledger.states.tolist()
        claimed = ledger.certified.claimed
        self.by = np.where(claimed >= 0, claimed, ledger.part_by).max(axis=0).tolist()
        self.proven: list[list[bool]] = np.asarray((claimed >= 0).any(axis=0)).tolist()
        self.rigorous: list[list[bool]] = np.asarray(ledger.part_rigorous.all(axis=0)).tolist()
        self.witness, self.witness_by = ledger.witness.tolist(), ledger.witness_by.tolist()
        self.sources, self.certified = ledger.sources, ledger.certified

    def to_json(self, side: int, index: int) -> dict[str, Any]:
        state = self.states[side][index]
        if state == WITNESSED:
            source = self.sources[self.witness_by[side][index]]
            return {"state": "witnessed", "witness": int(self.witness[side][index]), "by": source}
        if state == REFUTED:
            rigorous = bool(self.rigorous[side][index])
            found = {"state": "refuted", "by": self.sources[self.by[side][index]], "rigorous": rigorous}
            certified = self.certified.to_json(side, index) if rigorous and self.proven[side][index] else None
            return found if certified is None else found | {"certified": certified}
        return {"state": "open"}


def neurons_to_json(ledger: Ledger) -> list[dict[str, Any]]:
    """The report's list of neurons."""
    questions = _Questions(ledger)
    verdicts = ledger.verdicts.tolist()
    # None where a bound is infinite or not a number.
    lower, upper = (
        [value if math.isfinite(value) else None for value in side.tolist()]
        for side in (ledger.lower.min(axis=0), ledger.upper.max(axis=0))
    )
    places = [(layer, neuron) for layer, size in enumerate(ledger.sizes) for neuron in range(size)]
    return [
        {
            "layer": layer,
            "neuron": neuron,
            "verdict": NAMES[verdicts[i]],
            "lower": lower[i],
            "upper": upper[i],
            "positive": questions.to_json(POSITIVE, i),
            "negative": questions.to_json(NEGATIVE, i),
        }
        for i, (layer, neuron) in enumerate(places)
    ]


def build_report(
    ledger: Ledger,
    *,
    network: dict[str, Any],
    domain: dict[str, Any],
    config: dict[str, Any],
    stopped_by: str | None,
    total_seconds: float,
) -> Report:
    """The report of a ledger; ``stopped_by`` is dropped where every neuron has a verdict.

    ``seconds`` are those of the `STEPS`, and ``report`` for what ``total_seconds`` are more.
    """
    # After Ctrl-C threads may still be at work: what they add meanwhile must not tear the report.
    with ledger.lock:
        verdicts = ledger.verdicts
        complete = ledger.complete
        if not complete and stopped_by is None:
            stopped_by = "search"
        if complete or stopped_by == "search":
            waiting = ledger.pending()
            only_borderline = not complete and not (waiting & ~ledger.borderline).any()
            unanswered = not complete and bool((waiting & ledger.unanswered).any())
            stopped_by = (
                None if complete else "solver" if unanswered else "borderline" if only_borderline else stopped_by
            )
        names = [verdict.name.lower() for verdict in Verdict]
        totals = dict(zip(names, np.bincount(verdicts, minlength=len(names)).tolist(), strict=True))
        spent = dict.fromkeys(STEPS, 0.0) | ledger.log.seconds
        seconds = {what: round(taken, 6) for what, taken in spent.items()}
        seconds["report"] = round(max(0.0, total_seconds - sum(seconds.values())), 6)
        data: dict[str, Any] = {
            "schema": SCHEMA,
            "status": "complete" if complete else "stopped",
            "stopped_by": stopped_by,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": package_versions(),
            "network": network,
            "domain": domain,
            "config": config,
            "seconds": {**seconds, "total": round(total_seconds, 6)},
            "solves": list(ledger.log.solves),
            "counts": {**{name: totals[name] for name in VERDICTS}, "rigorous": int(np.count_nonzero(ledger.rigorous))},
            "neurons": neurons_to_json(ledger),
            "witnesses": [point.tolist() for point in ledger.points],
            "curve": [[seconds, n] for seconds, n in ledger.log.curve],
        }
        if ledger.log.tightening:
            data["tightening"] = ledger.log.tightening
        if ledger.log.tasks:
            data["tasks"] = ledger.log.tasks
        if ledger.log.tolerances:
            data["tolerances"] = ledger.log.tolerances
        if ledger.log.solver_options:
            data["solver_options"] = ledger.log.solver_options
        if ledger.log.solver_failures:
            data["solver_failures"] = ledger.log.solver_failures
        if ledger.contradictions:
            data["contradictions"] = [vars(found) for found in ledger.contradictions]
        return Report(data)


def check_belongs(report: Report, network: Network, domain: Domain) -> None:
    """Raise `ReportError` unless the report is about this network and domain, by digest.

    A network's digest is that of its file, external data included, or of its weights, offsets and structure if it was
    made in memory (`Network.identity`). A report without a digest is about no network.
    """
    theirs, ours = report.data["network"].get("sha256"), network.identity
    if not (isinstance(theirs, str) and theirs and theirs == ours):
        raise ReportError(f"the report is about the network with sha256 {theirs!r}, not {ours!r}")
    sizes = [layer["size"] for layer in report.data["network"]["layers"]]
    if report.data["network"]["n_inputs"] != network.n_inputs or sizes != [layer.size for layer in network.layers]:
        raise ReportError(f"the report speaks of layers of {sizes} neurons, which are not those of the network")
    told, here = domain_from_json(report.data["domain"]).digest, domain.digest
    if told != here:
        raise ReportError(
            f"the report is about another domain of the same network: its numbers have sha256 {told!r}, not {here!r}"
        )


def check_arithmetic(report: Report, wanted: str) -> None:
    """Raise `ReportError` where a report is for real arithmetic and float32 is needed. A report for float32 holds for
    real arithmetic too.
    """
    if wanted == "float32" and arithmetic_of(report.data) != "float32":
        raise ReportError("the report speaks of real arithmetic, which says nothing of float32; --arithmetic float32")


def resume_into(report: Report, ledger: Ledger, witnesser: Witnesser, *, believe: bool = True) -> None:
    """Enter a report's closed questions in a ledger; its witnesses are checked by forward passes. Without ``believe``
    no refutation counts as rigorous: a run that writes a proof has none of them.

    Raises `ReportError` before anything is entered if the report is malformed.
    """
    try:
        points, refuted = _closed(report, ledger)
        batches = {by: np.array(rows, dtype=np.float64) for by, rows in points.items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(f"the report's neurons or witnesses are malformed ({error!r})") from None
    for batch in batches.values():
        if batch.shape != (len(batch), witnesser.network.n_inputs):
            raise ReportError(f"the report's witnesses have shape {batch.shape[1:]}, not one number per input")
    for by, batch in batches.items():
        witnesser.offer(batch, by)
    # A report does not say which of them rest on which.
    ledger.presume({by for _, by, _ in refuted})
    for (side, by, rigorous), indices in refuted.items():
        for part in range(ledger.n_parts):
            ledger.refute(part, side, np.array(indices, dtype=np.intp), by, rigorous=rigorous and believe)
    if believe:
        _resume_certificates(report, ledger)


def _resume_certificates(report: Report, ledger: Ledger) -> None:
    """Enter what certificates of refutations cost, on the first part: the report does not say what on which."""
    for entry in report.data["neurons"]:
        for side in SIDES:
            question = entry[SIDE_NAMES[side]]
            if "certified" in question:
                neurons, told = ledger.flat(entry["layer"], entry["neuron"]), question["certified"]
                for part in range(ledger.n_parts):
                    found = Certificate(np.array([told["leaves"]]), np.array([told["seconds"]]))
                    nothing = Certificate(np.zeros(1, np.intp), np.zeros(1))
                    found = nothing if part else found
                    ledger.refute(part, side, neurons, CERTIFIER, rigorous=True, certificate=found)


def _closed(
    report: Report, ledger: Ledger
) -> tuple[dict[str, list[list[float]]], dict[tuple[Side, str, bool], list[int]]]:
    """Witnesses by source, and refuted questions by side, source and rigour."""
    numbers: dict[str, set[int]] = {}
    refuted: dict[tuple[Side, str, bool], list[int]] = {}
    for entry in report.data["neurons"]:
        layer, neuron = entry["layer"], entry["neuron"]
        if not (0 <= layer < len(ledger.sizes) and 0 <= neuron < ledger.sizes[layer]):
            raise ReportError(f"the report speaks of neuron {neuron} of layer {layer}, which the network does not have")
        index = int(ledger.flat(layer, neuron)[0])
        for side in SIDES:
            question = entry[SIDE_NAMES[side]]
            match question["state"]:
                case "witnessed":
                    numbers.setdefault(str(question["by"]), set()).add(question["witness"])
                case "refuted":
                    # A certified refutation is entered as its source's claim first, then as proven.
                    key = (side, str(question["by"]), bool(question["rigorous"]) and "certified" not in question)
                    refuted.setdefault(key, []).append(index)
                case "open":
                    pass
                case state:
                    raise ReportError(
                        f"a question of the report has state {state!r}; open, witnessed and refuted exist"
                    )
    witnesses = report.data["witnesses"]
    for number in {n for some in numbers.values() for n in some}:
        if not 0 <= number < len(witnesses):
            raise ReportError(f"the report names witness {number} and holds {len(witnesses)}")
    return {by: [witnesses[n] for n in sorted(some)] for by, some in numbers.items()}, refuted
