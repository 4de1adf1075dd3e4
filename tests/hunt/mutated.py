"""Campaign: damaged files of every kind that the command line reads."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hunt.campaign import Campaign, Job, Outcome, Random
from hunt.networks import dense, sparse
from hunt.product import judge_run, judge_scratch, run, write_vnnlib
from hunt.verdicts import pick

NUMBERS = (
    "nan", "inf", "-inf", "1e999", "-1e999", "1e-400", "0", "-0.0", "", "9" * 400, "1" * 5000, "1e9", "0x10",
    "1_0", "--1",
    "4294967296", "9223372036854775808", "-9223372036854775809",
)  # fmt: skip
WORDS = (
    "\x1b[31mred",
    "[/bold]",
    "{{SCRIPT}}",
    "\x00",
    "\u202e",
    "é" * 50,
    "../../x",
    "a" * 3000,
    "[" * 2000,
    "(" * 5000,
)


def damaged(rng: Random, data: bytes) -> bytes:
    """Bytes changed, cut out, doubled, inserted or cut off."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not out:
            break
        at = int(rng.integers(len(out)))
        length = int(min(len(out) - at, 2 ** rng.integers(0, 9)))
        kind = rng.integers(6)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length] * int(rng.integers(1, 20))
        elif kind == 3:
            out[at:at] = rng.bytes(length)
        elif kind == 4:
            del out[at:]
        else:
            out[at : at + length] = bytes(length)
    return bytes(out)


def damaged_text(rng: Random, text: str) -> str:
    """Numbers, words and lines of a text changed."""
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.integers(4)
        if kind == 0:
            found = list(re.finditer(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text))
            if found:
                hit = pick(rng, found)
                text = text[: hit.start()] + pick(rng, NUMBERS) + text[hit.end() :]
        elif kind == 1:
            found = list(re.finditer(r"[A-Za-z_]+", text))
            if found:
                hit = pick(rng, found)
                text = text[: hit.start()] + pick(rng, WORDS) + text[hit.end() :]
        else:
            lines = text.splitlines() or [""]
            at = int(rng.integers(len(lines)))
            lines[at : at + 1] = [] if kind == 2 else [lines[at]] * int(rng.integers(2, 50))
            text = "\n".join(lines)
    return text


def damaged_json(rng: Random, text: str) -> str:
    """Values at random places of the tree removed or replaced."""
    data = json.loads(text)
    for _ in range(int(rng.integers(1, 4))):
        node, key = {"": data}, ""
        while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.85:  # type: ignore[index]
            node = node[key]  # type: ignore[assignment,index]
            key = pick(rng, list(node)) if isinstance(node, dict) else int(rng.integers(len(node)))
        if key == "":
            continue
        if rng.random() < 0.25:
            del node[key]
        else:
            node[key] = pick(
                rng, [None, True, -1, 0, 10**30, 1e300, "", "x", [], {}, [[]], *WORDS[:3], [0] * 1000, {"a": {}}]
            )
    return json.dumps(data)


OPERATORS = ("Conv", "MaxPool", "Gemm", "Softmax", "Reshape", "Exp", "Loop", "Mul", WORDS[0])
SIZES = (0, -1, 1, 2**20, 2**31, 2**40, 2**62)
PLACES = ("../../../etc/passwd", "/dev/zero", "none.bin")
ATTRIBUTES: tuple[tuple[str, Any], ...] = (
    ("alpha", 1e38), ("transA", 1), ("group", 0), ("pads", [2**31] * 4), ("strides", [0, 0]), ("axis", 99),
    ("kernel_shape", [2**20] * 2), ("dilations", [-1, 1]),
)  # fmt: skip


def _node_changes(rng: Random, graph: onnx.GraphProto) -> list[Callable[[], Any]]:
    node = pick(rng, list(graph.node))
    outputs = [each.output[0] for each in graph.node]
    attribute = onnx.helper.make_attribute(*pick(rng, ATTRIBUTES))
    return [
        lambda: setattr(node, "op_type", pick(rng, OPERATORS)),
        lambda: node.input.__setitem__(0, pick(rng, [*outputs, "nowhere", ""])),
        lambda: node.output.__setitem__(0, pick(rng, [*outputs, ""])),
        lambda: graph.node.remove(node),
        lambda: graph.node.append(node),
        lambda: setattr(node, "name", pick(rng, WORDS[:8]).replace("\x00", "0")),
        lambda: node.attribute.append(attribute),
    ]


def _tensor_changes(rng: Random, model: onnx.ModelProto) -> list[Callable[[], Any]]:
    graph = model.graph
    tensor = pick(rng, list(graph.initializer))
    dimension = graph.input[0].type.tensor_type.shape.dim[-1]

    def outside() -> None:
        tensor.external_data.add(key="location", value=pick(rng, PLACES))
        tensor.data_location = onnx.TensorProto.EXTERNAL

    return [
        lambda: tensor.dims.__setitem__(0, pick(rng, SIZES)),
        lambda: setattr(tensor, "data_type", int(rng.integers(0, 24))),
        lambda: setattr(tensor, "raw_data", rng.bytes(int(rng.integers(0, 200)))),
        lambda: graph.initializer.remove(tensor),
        lambda: setattr(dimension, "dim_value", pick(rng, SIZES)),
        lambda: setattr(model.opset_import[0], "version", pick(rng, (0, 1, 6, 13, 99, -1))),
        outside,
    ]


def damaged_model(rng: Random, data: bytes) -> bytes:
    """An ONNX file that still parses: its nodes, attributes, tensors or shapes changed."""
    model = onnx.load_from_string(data)
    for _ in range(int(rng.integers(1, 3))):
        if not model.graph.node or not model.graph.initializer:
            break
        change = pick(rng, [*_node_changes(rng, model.graph), *_tensor_changes(rng, model)])
        try:
            change()
        except (ValueError, IndexError):
            continue  # no such place in this node or tensor
    return model.SerializeToString()


SEARCH = ["--time-limit", "4", "--threads", "1", "--output", "out.json"]
COMMANDS: dict[str, list[list[str]]] = {
    "network.onnx": [
        ["info", "network.onnx"],
        ["find", "network.onnx", "--domain", "domain.vnnlib", *SEARCH],
        ["verify", "network.onnx", "good.onnx", "--domain", "domain.vnnlib", "--time-limit", "4"],
        ["export", "network.onnx", "--domain", "domain.vnnlib", "--output", "out.mps"],
    ],
    "domain.vnnlib": [["find", "good.onnx", "--domain", "domain.vnnlib", *SEARCH]],
    "report.json": [
        ["find", "good.onnx", "--domain", "good.vnnlib", "--resume", "report.json", *SEARCH],
        ["compress", "good.onnx", "--report", "report.json", "--output", "out.onnx"],
        ["verify", "good.onnx", "good.onnx", "--domain", "good.vnnlib", "--report", "report.json", "--time-limit", "4"],
    ],
    "grid.toml": [["compare", "grid.toml", "--output", "sweep", "--dry-run"]],
    "samples.npy": [
        ["find", "good.onnx", "--domain", "good.vnnlib", "--samples", "samples.npy", *SEARCH],
        ["find", "good.onnx", "--domain", "ball:samples.npy:0.5", *SEARCH],
    ],
    "store": [["compare", "grid.toml", "--output", "sweep", "--resume", "--workers", "1"], ["page", "sweep"]],
}
GRID = """name = "small"
time_limit = 20
[frozen]
bounds = "interval"
[[instances]]
name = "one"
network = "good.onnx"
domain = "good.vnnlib"
[[runs]]
formulation = ["bigm"]
bounds = ["interval"]
search = "branch"
solver = ["highs"]
"""


class Mutated(Campaign):
    """Whatever a file holds: an answer or one clear line, in bounded time and memory, and no traceback."""

    name = "mutated"
    title = "damaged ONNX, VNN-LIB, report, TOML, NumPy and sweep files"
    share = 2.0

    def make(self, rng: Random, folder: Path) -> Job:
        target = pick(
            rng,
            ["network.onnx"] * 4 + ["domain.vnnlib"] * 3 + ["report.json"] * 3 + ["grid.toml", "samples.npy", "store"],
        )
        command = pick(rng, COMMANDS[target])
        layers, n, domain = sparse(rng)
        builder, tensor = dense(layers, n)
        data = builder.finish(tensor)[0]
        for name in ("network.onnx", "good.onnx"):
            (folder / name).write_bytes(data)
        for name in ("domain.vnnlib", "good.vnnlib"):
            write_vnnlib(folder / name, domain)
        (folder / "grid.toml").write_text(GRID)
        np.save(folder / "samples.npy", rng.normal(size=(5, n) if "--samples" in command else n))
        self._prepare(target, folder)
        if target == "store":
            stores = sorted(p for p in (folder / "sweep").rglob("*") if p.is_file())
            path = pick(rng, stores)
            path.write_bytes(damaged(rng, path.read_bytes()))
        else:
            self._damage(rng, folder / target)
        return {"target": target, "command": command, "shell": f"stablenet {shlex.join(command)}"}

    @staticmethod
    def _prepare(target: str, folder: Path) -> None:
        """A whole report or sweep, to be damaged."""
        if target == "report.json":
            run(["find", "good.onnx", "--domain", "good.vnnlib", "--search", "off", "--output", "report.json"], folder)
        elif target == "store":
            run(["compare", "grid.toml", "--output", "sweep", "--workers", "1"], folder)

    @staticmethod
    def _damage(rng: Random, path: Path) -> None:
        data = path.read_bytes()
        if rng.random() < 0.35:
            path.write_bytes(damaged(rng, data))
        elif path.suffix == ".onnx":
            path.write_bytes(damaged_model(rng, data))
        elif path.suffix == ".json":
            path.write_text(damaged_json(rng, data.decode()))
        elif path.suffix == ".npy":
            path.write_bytes(damaged_text(rng, data[:128].decode("latin-1")).encode("latin-1", "replace") + data[128:])
        else:
            path.write_text(damaged_text(rng, data.decode()))

    def check(self, job: Job, folder: Path, outcome: Outcome) -> None:
        ended = run(job["command"], folder)
        judge_run(ended, outcome)
        judge_scratch(folder, outcome)
        outcome.counts[job["target"]] += 1
        outcome.counts["questions"] += 1
        outcome.counts["refused"] += ended.code == 2
