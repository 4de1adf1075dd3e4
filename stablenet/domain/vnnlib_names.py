"""The names of the variables of a VNN-LIB file: version 1's X_0 and Y_0, version 2's tensors of several networks.

Version 2 declares networks with named input, hidden and output tensors, and writes their entries as ``X[0,1]``. Inputs
of different networks that the file asserts to be equal are one variable here: see `Names.tie`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import DomainError
from stablenet.domain.vnnlib_text import Expression, Form, SourceText

Kind = Literal["X", "Y", "H"]

MAX_ENTRIES = 1 << 21
"""Most entries that the tensors of a file may have together."""
MAX_NETWORKS = 16

V1_NAME = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ENTRY = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?:\[((?:0|[1-9]\d{0,8})(?:,(?:0|[1-9]\d{0,8}))*)\])?")
_TYPE = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\[((?:[1-9]\d{0,8}(?:,[1-9]\d{0,8})*)?)\]")
_VERSION = re.compile(r"<([12])\.(\d{1,3})>")
_REAL = {"real", "float16", "float32", "float64", "bfloat16", "double"}
_KINDS: dict[str, Kind] = {"declare-input": "X", "declare-hidden": "H", "declare-output": "Y"}
_WORDS = {"X": "input", "Y": "output", "H": "hidden"}


@dataclass(frozen=True)
class Tensor:
    """A declared tensor: kind, name, shape, element type, the number of its network and where it was declared."""

    kind: Kind
    name: str
    shape: tuple[int, ...]
    dtype: str
    network: int
    position: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    def entry(self, index: int) -> str:
        """The name of an entry, counted in row-major order."""
        if not self.shape:
            return self.name
        return f"{self.name}[{','.join(str(i) for i in np.unravel_index(index, self.shape))}]"


@dataclass
class DeclaredNetwork:
    """A network that a file declares; ``like`` names one of the same structure, ``equal`` says of the same weights."""

    name: str
    position: int
    tensors: list[Tensor] = field(default_factory=list)
    like: str | None = None
    equal: bool = False

    def tensor(self, kind: Kind) -> Tensor:
        """Its input or output."""
        return next(tensor for tensor in self.tensors if tensor.kind == kind)


class Names:
    """The variables of one file, and which inputs of several networks are one.

    An input is found by its number among those of the file (tied ones have the same), an output by its number among
    all outputs in the order of declaration.
    """

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.networks: list[DeclaredNetwork] = []
        self.tensors: dict[str, Tensor] = {}
        self.starts: dict[str, int] = {}
        self.first: dict[str, int] = {}
        """Version 1: variables and where they were declared."""
        self.places: list[npt.NDArray[np.intp]] = []
        """For each network the numbers of its inputs; complete after `tie`."""
        self.n_inputs = 0
        self.entries = 0

    # --- declarations

    def command(self, form: Form) -> bool:
        """Carry out a declaration; False for any other command."""
        match form.items:
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), Form(items=[]), "Real"]:
                self._variable(name, form.position)
            case ["vnnlib-version", str(version)]:
                if _VERSION.fullmatch(version) is None:
                    words = f"VNN-LIB version {self.source.show(version)}; versions 1 and 2 are read, as <2.0>"
                    raise self.source.error(form.position, words)
            case ["declare-network", str(name), *items]:
                self._network(name, form.position, items)
            case _:
                return False
        if self.first and self.networks:
            words = "a variable of version 1 and a network of version 2 in one file; one of them is expected"
            raise self.source.error(form.position, words)
        return True

    def _variable(self, name: str, position: int) -> None:
        if V1_NAME.fullmatch(name) is None:
            words = f"variable {self.source.show(name)}; inputs are named X_0, X_1, ..., outputs Y_0, ..."
            raise self.source.error(position, words)
        if name in self.first:
            raise self.source.error(position, f"{name} is declared twice")
        self.first[name] = position

    def _network(self, name: str, position: int, items: list[Expression]) -> None:
        known = {network.name for network in self.networks}
        if _IDENTIFIER.fullmatch(name) is None:
            raise self.source.error(position, f"network {self.source.show(name)}; a name is expected")
        if name in known:
            raise self.source.error(position, f"network {name} is declared twice")
        if len(known) >= MAX_NETWORKS:
            raise self.source.error(position, f"more than {MAX_NETWORKS} networks")
        network = DeclaredNetwork(name, position)
        for item in items:
            match item:
                case Form(items=["isomorphic-to" | "equal-to" as how, str(other)]):
                    if other not in known or network.like is not None:
                        words = f"{self.source.show(item)}: one network that is declared before is expected"
                        raise self.source.error(item.position, words)
                    network.like, network.equal = other, how == "equal-to"
                case Form(items=[str(head), str(tensor), str(dtype), *names]) if head in _KINDS:
                    where = item.position
                    network.tensors.append(self._tensor(_KINDS[head], tensor, dtype, names, where))
                case _:
                    words = "(declare-input X real [5]), (declare-hidden …), (declare-output …), (isomorphic-to f)"
                    at = item.position if isinstance(item, Form) else position
                    raise self.source.error(at, f"{self.source.show(item)} is not understood; {words} are expected")
        for kind in ("X", "Y"):
            found = [tensor for tensor in network.tensors if tensor.kind == kind]
            if len(found) != 1:
                words = f"network {name} declares {len(found)} {_WORDS[kind]}s; one is supported"
                raise self.source.error(position, words)
        self.networks.append(network)

    def _tensor(self, kind: Kind, name: str, dtype: str, names: list[Expression], position: int) -> Tensor:
        match = _TYPE.fullmatch(dtype)
        if match is None or _IDENTIFIER.fullmatch(name) is None:
            words = f"{name} {dtype}: a name, an element type and a shape such as [1,5] are expected"
            raise self.source.error(position, self.source.show(words))
        if match[1].lower() not in _REAL:
            words = f"{name} is of type {match[1]}; real, float16, float32 and float64 are supported"
            raise self.source.error(position, self.source.show(words))
        quoted = all(isinstance(word, str) and word[0] == '"' for word in names)
        if not quoted or len(names) > 1 or (kind == "H" and not names):
            raise self.source.error(position, f"{name}: a shape and at most one quoted ONNX name are expected")
        if name in self.tensors:
            raise self.source.error(position, f"{name} is declared twice")
        shape = tuple(int(size) for size in match[2].split(",")) if match[2] else ()
        tensor = Tensor(kind, name, shape, match[1], len(self.networks), position)
        self.entries += tensor.size
        if self.entries > MAX_ENTRIES:
            raise self.source.error(position, f"the tensors up to here have more than {MAX_ENTRIES:,} entries")
        self.starts[name] = sum(t.size for t in self.tensors.values() if t.kind == kind)
        self.tensors[name] = tensor
        return tensor

    # --- inputs that are one

    def tie(self, asserted: Iterable[Expression]) -> None:
        """Number the inputs, those as one that the assertions make equal across networks.

        Raises `DomainError` where the inputs of version 1 are not numbered without gaps, or there are none.
        """
        if self.networks:
            self._join(asserted)
            return
        inputs = {name: int(name[2:]) for name in self.first if name[0] == "X"}
        self.n_inputs = len(inputs)
        if not inputs:
            raise DomainError(f"{self.source.name}: declares no input; (declare-const X_0 Real) is expected")
        beyond = next((name for name, index in inputs.items() if index >= len(inputs)), None)
        if beyond is not None:
            missing = min(set(range(len(inputs))) - set(inputs.values()))
            words = f"{beyond} is declared but X_{missing} is not; inputs are numbered without gaps"
            raise self.source.error(self.first[beyond], words)
        self.places = [np.arange(self.n_inputs)]

    def _join(self, asserted: Iterable[Expression]) -> None:
        sizes = [network.tensor("X").size for network in self.networks]
        leader = list(range(sum(sizes)))

        def root(i: int) -> int:
            while leader[i] != i:
                leader[i] = leader[leader[i]]
                i = leader[i]
            return i

        seen: set[tuple[int, int]] = set()
        for op, left, right in self._pairs(asserted):
            seen.add((left, right) if op != ">=" else (right, left))
            if op in ("=", "==") or ((right, left) in seen and (left, right) in seen):
                leader[max(root(left), root(right))] = min(root(left), root(right))
        roots = np.array([root(i) for i in range(len(leader))], dtype=np.intp)
        classes = np.searchsorted(np.unique(roots), roots)
        self.n_inputs = int(classes.max(initial=-1)) + 1
        self.places = np.split(classes, np.cumsum(sizes)[:-1])

    def _pairs(self, asserted: Iterable[Expression]) -> Iterator[tuple[str, int, int]]:
        """Comparisons of two inputs of different networks that hold without condition."""
        for form in asserted:
            match form:
                case Form(items=["and", *inner]):
                    yield from self._pairs(inner)
                case Form(items=["=" | "==" | "<=" | ">=" as op, str(left), str(right)]):
                    one, two = (self._raw_input(word, form.position) for word in (left, right))
                    if one is not None and two is not None and one[0] != two[0]:
                        yield str(op), one[1], two[1]

    def _raw_input(self, word: str, position: int) -> tuple[int, int] | None:
        """Network and number, ties aside, of an input."""
        found = self._entry(word, position)
        if found is None or found[0].kind != "X":
            return None
        return found[0].network, self.starts[found[0].name] + found[1]

    # --- looking up

    def _entry(self, word: str, position: int) -> tuple[Tensor, int] | None:
        match = _ENTRY.fullmatch(word)
        tensor = None if match is None else self.tensors.get(match[1])
        if match is None or tensor is None:
            return None
        indices = [int(i) for i in match[2].split(",")] if match[2] else []
        fits = len(indices) == len(tensor.shape) and all(i < n for i, n in zip(indices, tensor.shape, strict=True))
        if not fits:
            shape = ",".join(str(size) for size in tensor.shape)
            words = f"{self.source.show(word)} is no entry of {tensor.name}, whose shape is [{shape}]"
            raise self.source.error(position, words)
        index = 0
        for i, size in zip(indices, tensor.shape, strict=True):
            index = index * size + i
        return tensor, index

    def find(self, word: str, position: int) -> tuple[Kind, int] | None:
        """Kind and number of a variable; None for any other word. Raises `DomainError` for one not declared."""
        if not self.networks:
            if word in self.first:
                return ("X" if word[0] == "X" else "Y"), int(word[2:])
            if V1_NAME.fullmatch(word) is not None:
                raise self.source.error(position, f"{word} is not declared")
            return None
        found = self._entry(word, position)
        if found is None:
            if _ENTRY.fullmatch(word) is not None and word not in ("nan", "inf"):
                raise self.source.error(position, f"{self.source.show(word)} is not declared")
            return None
        tensor, index = found
        if tensor.kind == "X":
            return "X", int(self.places[tensor.network][index])
        return tensor.kind, self.starts[tensor.name] + index

    def input(self, index: int) -> tuple[str, int]:
        """The name of an input by its number, and where it was declared."""
        if not self.networks:
            return f"X_{index}", self.first[f"X_{index}"]
        for network, places in zip(self.networks, self.places, strict=True):
            found = np.flatnonzero(places == index)
            if len(found):
                tensor = network.tensor("X")
                return tensor.entry(int(found[0])), tensor.position
        raise IndexError(index)

    def n_outputs(self) -> int:
        """Number of outputs of all networks."""
        if not self.networks:
            return 1 + max((int(name[2:]) for name in self.first if name[0] == "Y"), default=-1)
        return sum(network.tensor("Y").size for network in self.networks)
