"""Inputs made to cost memory, time or a traceback: refused before anything is built, in one line."""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import model, node, save

from stablenet.api import find_stable
from stablenet.compare.grid import read_grid
from stablenet.core.errors import DomainError, InputError, NetworkError, ReportError, StablenetError, TooLargeError
from stablenet.domain.regions import domain_from_json
from stablenet.domain.samples import read_centre, read_samples
from stablenet.domain.vnnlib import MAX_BITS, read_vnnlib
from stablenet.domain.vnnlib_text import MAX_TOKENS
from stablenet.onnx_io.reader import load_onnx
from stablenet.report.report import Report

LIMIT = 700
"""Megabytes of resident memory within which everything here is refused (a bare import takes a tenth of it)."""


def refused_within(code: str, *arguments: object) -> str:
    """Run code that must raise an `InputError` in a process of its own, and return the message."""
    script = (
        "import re, sys\nfrom pathlib import Path\nfrom stablenet.core.errors import InputError\n"
        f"try:\n    {code}\nexcept InputError as error:\n    print(str(error))\n"
        # Not getrusage: its peak counts what the parent held when it forked.
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=600
    )
    *message, peak = done.stdout.splitlines()
    assert len(message) == 1, done.stdout
    assert int(peak) < LIMIT
    return message[0]


def ones(*shape: int) -> onnx.NodeProto:
    fill = onnx.numpy_helper.from_array(np.ones(1, np.float32))
    return node("ConstantOfShape", "shape", out="ones", value=fill)


def integers(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


SUMMED = node("ReduceSum", "x", out="s", keepdims=1)
EXPLOSIONS: dict[str, tuple[list[onnx.NodeProto], list[int], dict[str, Any]]] = {
    "a convolution": ([node("Conv", "x", "w")], [1, 1, 2000, 2000], {"w": np.ones((1, 1, 3, 3))}),
    "output channels": ([node("Conv", "x", "w")], [1, 64, 96, 96], {"w": np.ones((64, 64, 3, 3))}),
    "a sum spread out": ([SUMMED, node("Expand", "s", "shape")], [1, 1000], {"shape": integers(300, 300)}),
    "a sum times ones": ([SUMMED, ones(), node("Mul", "s", "ones")], [1, 1000], {"shape": integers(500, 500)}),
    "a sum plus ones": ([SUMMED, ones(), node("Add", "s", "ones")], [1, 1000], {"shape": integers(500, 500)}),
    "an outer sum": ([node("Transpose", "x", out="t", perm=[0, 2, 1]), node("Add", "x", "t")], [1, 3000, 1], {}),
    "a sum gathered": ([SUMMED, node("Gather", "s", "i", axis=1)], [1, 1000], {"i": np.zeros(100_000, np.int64)}),
    "a sum in copies": (
        [SUMMED, node("Concat", *["s"] * 200, out="a", axis=1), node("Concat", *["a"] * 200, axis=1)],
        [1, 1000],
        {},
    ),
    "a pool of sums": (
        [SUMMED, node("Expand", "s", "shape", out="e"), node("MaxPool", "e", kernel_shape=[50, 50])],
        [1, 1, 30, 30],
        {"shape": integers(1, 1, 120, 120)},
    ),
    "an average pool": ([node("AveragePool", "x", kernel_shape=[100, 100])], [1, 1, 800, 800], {}),
    "padding": ([node("Pad", "x", "pads")], [1, 10], {"pads": integers(0, 0, 0, 10**9)}),
    "a matrix of rows": ([ones(), node("MatMul", "ones", "x")], [4000, 10], {"shape": integers(4000, 4000)}),
    "many steps": (
        [node("Mul", "x" if i == 0 else f"v{i}", "c", out=f"v{i + 1}" if i < 99 else "y") for i in range(100)],
        [1, 2_000_000],
        {"c": np.array(1.1)},
    ),
}


@pytest.mark.parametrize("name", EXPLOSIONS)
def test_small_files_that_stand_for_large_matrices(name: str, tmp_path: Path) -> None:
    nodes, shape, weights = EXPLOSIONS[name]
    path = save(model([*nodes[:-1], nodes[-1]], shape, weights, opset=13), tmp_path)
    message = refused_within("from stablenet.onnx_io.reader import load_onnx; load_onnx(sys.argv[1])", path)
    assert "node '" in message
    assert "coefficients" in message or "elements are supported" in message


def test_what_a_file_stores_may_be_used(tmp_path: Path) -> None:
    weights = {"w": np.ones((3000, 1500)), "v": np.ones((1500, 2))}
    nodes = [node("MatMul", "x", "w", out="g"), node("Relu", "g", out="h"), node("MatMul", "h", "v")]
    assert load_onnx(save(model(nodes, [1, 3000], weights), tmp_path)).n_neurons == 1500


def test_a_large_file_that_is_no_network_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "zeros.onnx"
    with path.open("wb") as file:
        file.truncate(2**28)
    assert "is no ONNX file" in refused_within(
        "from stablenet.onnx_io.reader import load_onnx; load_onnx(sys.argv[1])", path
    )
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(NetworkError, match="at most"):
        load_onnx(path)


def test_external_data_is_a_regular_file_of_some_length(tmp_path: Path) -> None:
    proto = model([node("Add", "x", "w")], [1, 3], {"w": np.ones(3)})
    onnx.external_data_helper.convert_model_to_external_data(proto, location="w.bin", size_threshold=0)
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    assert load_onnx(path).n_inputs == 3
    (tmp_path / "w.bin").unlink()
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(NetworkError, match="no regular file"):
        load_onnx(path)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "network": ("net.onnx", load_onnx),
    "domain": ("d.vnnlib", read_vnnlib),
    "report": ("r.json", Report.read),
    "grid": ("g.toml", read_grid),
    "samples": ("s.npy", lambda path: read_samples(path, 3)),
    "centre": ("c.npy", lambda path: read_centre(str(path), 3)),
}


@pytest.mark.parametrize("name", READERS)
def test_pipes_and_devices_are_refused_at_once(name: str, tmp_path: Path) -> None:
    file, read = READERS[name]
    os.mkfifo(tmp_path / file)
    with pytest.raises(InputError, match="pipe or a device"):
        read(tmp_path / file)
    with pytest.raises(InputError, match="pipe or a device"):
        read(Path("/dev/zero"))
    with pytest.raises(InputError, match="directory"):
        read(tmp_path)


HEAD = "(declare-const X_0 Real)\n(assert (<= X_0 1.0))\n(assert (>= X_0 0.0))\n"
TIMES = " ".join(["1e-300"] * (4 * MAX_BITS // 1000))
VNNLIB = {
    "words": HEAD + "()" * (MAX_TOKENS // 2 + 1),
    "nesting": HEAD + "(assert " + "(and " * 5000 + "(<= X_0 1)" + ")" * 5001,
    "digits": HEAD + f"(assert (<= X_0 {'1' * 1_000_000}))",
    "products": HEAD + f"(assert (<= (* {TIMES} X_0) 1))",
    "sums": HEAD + f"(assert (<= (+ {' '.join(f'(/ 1 {2 * i + 3})' for i in range(60_000))} X_0) 1))",
}


@pytest.mark.parametrize("name", VNNLIB)
def test_vnnlib_files_of_too_much(name: str, tmp_path: Path) -> None:
    (tmp_path / "d.vnnlib").write_text(VNNLIB[name])
    with pytest.raises(DomainError, match=r"d\.vnnlib, line 4: "):
        read_vnnlib(tmp_path / "d.vnnlib")


def test_disjunctions_that_multiply_out(tmp_path: Path) -> None:
    n = 200
    text = "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in range(n))
    sides = [
        "".join(f"(and {' '.join(f'(<= X_{i} 0.{k + 1})' for i in range(first, n, 6))})" for k in range(20))
        for first in range(6)
    ]
    text += "".join(f"(assert (or {side}))" for side in sides)
    (tmp_path / "d.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(DomainError, match="multiply out"):
        read_vnnlib(tmp_path / "d.vnnlib.gz")


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "d.vnnlib.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(80):
            file.write(b" " * 2**20)
    assert "MB unpacked" in refused_within(
        "from stablenet.domain.vnnlib import read_vnnlib; read_vnnlib(sys.argv[1])", path
    )


def test_a_number_of_many_digits_is_read_exactly(tmp_path: Path) -> None:
    (tmp_path / "d.vnnlib").write_text(HEAD + f"(assert (<= (+ X_0 0.{'3' * 5000}) 1.0))")
    assert read_vnnlib(tmp_path / "d.vnnlib").parts[0].upper[0] == 2.0 / 3.0


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("report")
    weights = {"w": np.random.default_rng(0).normal(size=(2, 4)), "b": np.zeros(4)}
    path = save(model([node("Gemm", "x", "w", "b", out="g"), node("Relu", "g")], [1, 2], weights), folder)
    return find_stable(path, "box:-1:1", threads=1).data


def test_a_written_report_is_read(report: dict[str, Any], tmp_path: Path) -> None:
    Report(report).write(tmp_path / "r.json")
    assert Report.read(tmp_path / "r.json").data == report


ABUSES: dict[str, Callable[[dict[str, Any]], object]] = {
    "an input is short": lambda r: r["domain"].update(lower=[-1.0], upper=[1.0]),
    "a layer is short": lambda r: r["network"]["layers"][0].update(size=3),
    "neurons out of order": lambda r: r["neurons"].reverse(),
    "a neuron too few": lambda r: r["neurons"].pop(),
    "a negative layer": lambda r: r["neurons"][0].update(layer=-1),
    "no such witness": lambda r: r["neurons"][0].update(positive={"state": "witnessed", "witness": 99, "by": "x"}),
    "a witness too long": lambda r: r["witnesses"].append([0.0, 0.0, 0.0]),
    "a witness of words": lambda r: r["witnesses"].append(["0", "1"]),
    "a huge integer": lambda r: r["neurons"][0].update(upper=10**400),
    "a state of its own": lambda r: r["neurons"][0].update(negative={"state": "proved"}),
    "seconds as text": lambda r: r["seconds"].update(total="1"),
    "no seconds": lambda r: r.pop("seconds"),
    "a domain of rows": lambda r: r["domain"].update(kind="polytope", a=[[1.0], [1.0, 2.0]], b=[1.0, 1.0]),
}


@pytest.mark.parametrize("name", ABUSES)
def test_corrupt_reports(name: str, report: dict[str, Any], tmp_path: Path) -> None:
    data = copy.deepcopy(report)
    ABUSES[name](data)
    (tmp_path / "r.json").write_text(json.dumps(data))
    with pytest.raises(ReportError, match=r"r\.json: ") as caught:
        Report.read(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "[[]" + ",[]" * 4_000_000 + "]", '{"a": NaN}', "9" * 5000])
def test_json_that_is_too_deep_or_too_much(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ReportError, match=r"r\.json: "):
        Report.read(tmp_path / "r.json")


def test_grids_that_are_too_deep_or_no_text(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    for content in (b"a = " + b"[" * 100_000, b"\xff\xfe", b" " * 2**21):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"g\.toml: "):
            read_grid(path)


def test_a_domain_in_json_that_is_too_deep() -> None:
    data: dict[str, Any] = {"kind": "box", "lower": [0.0], "upper": [1.0]}
    for _ in range(5000):
        data = {"kind": "union", "parts": [data]}
    with pytest.raises(DomainError, match="deep"):
        domain_from_json(data)


def test_headers_of_arrays_are_checked_before_their_numbers(tmp_path: Path) -> None:
    good = tmp_path / "s.npy"
    np.save(good, np.zeros((2, 3)))
    raw = good.read_bytes()
    for old, new in (
        (b"(2, 3)", b"(9**9,"),
        (b"(2, 3), }     ", b"(10000000, 3)}"),
        (b"'<f8'", b"'|O' "),
        (b"(2", b"(-"),
    ):
        good.write_bytes(raw.replace(old, new))
        with pytest.raises(InputError, match=r"s\.npy: "):
            read_samples(good, 3)
    with zipfile.ZipFile(tmp_path / "s.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", raw.replace(b"(2, 3), }     ", b"(10000000, 3)}"))
    with pytest.raises(InputError, match=r"a\.npy: "):
        read_samples(tmp_path / "s.npz", 3)


def test_mutated_networks_raise_nothing_but_errors_of_ours(tmp_path: Path) -> None:
    """Attributes, dimensions and operators exchanged at random in a network of many operators."""
    rng = random.Random(0)
    weights = {"w": np.ones((2, 1, 2, 2)), "k": np.ones((8, 3)), "b": np.ones(2), "n": integers(1, 8)}
    nodes = [
        node("Conv", "x", "w", "b", out="c", pads=[0, 0, 0, 0], strides=[1, 1], dilations=[1, 1], group=1),
        node("Relu", "c", out="r"),
        node("MaxPool", "r", out="m", kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 0, 0]),
        node("Reshape", "m", "n", out="f"),
        node("Gemm", "f", "k", out="g", transA=0, transB=0, alpha=1.0),
        node("Clip", "g", out="q"),
        node("Concat", "q", "q", axis=1),
    ]
    good = model(nodes, [1, 1, 4, 4], weights)
    load_onnx(save(good, tmp_path))
    numbers = (-1, 0, 1, 2, 3, 7, 10**6, 2**31, 2**62, -(2**63))
    loaded, messages = 0, list[str]()
    for _ in range(400):
        proto = copy.deepcopy(good)
        for _ in range(rng.choice((1, 1, 2))):
            given = rng.choice(proto.graph.node)
            tensor = rng.choice(proto.graph.initializer)
            choice = rng.randrange(4)
            if choice == 0 and given.attribute:
                entry = rng.choice(given.attribute)
                entry.i = rng.choice(numbers)
                if entry.ints:
                    entry.ints[rng.randrange(len(entry.ints))] = rng.choice(numbers)
            elif choice == 1:
                given.input[rng.randrange(len(given.input))] = rng.choice(["x", "w", "k", "b", "n", "c", "m", "g", ""])
            elif choice == 2:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(numbers)
            else:
                given.op_type = rng.choice([n.op_type for n in nodes] + ["Add", "MatMul", "Gather", "Pad", "Split"])
        try:
            load_onnx(save(proto, tmp_path))
            loaded += 1
        except StablenetError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    assert 0 < loaded < 400


def test_the_address_space_is_limited_while_networks_are_read(tmp_path: Path) -> None:
    """A network within all counts, under a limit that it does not fit: one line, exit code 2."""
    path = save(model([node("Conv", "x", "w")], [1, 8, 400, 400], {"w": np.ones((1, 8, 3, 3))}), tmp_path)
    arguments = [sys.executable, "-m", "stablenet.cli.main", "info", str(path), "--memory-limit"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*arguments, "450"], capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "--memory-limit" in done.stderr


def test_too_large_is_an_error_about_the_network() -> None:
    assert issubclass(TooLargeError, NetworkError)
    assert TooLargeError.exit_code == 2
