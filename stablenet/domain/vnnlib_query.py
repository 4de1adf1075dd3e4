"""The whole of a VNN-LIB file, outputs included: the query for an input at which all its assertions hold.

The assertions are multiplied out into cases: a part of the input space, and disjunctions of conjunctions of linear
rows in inputs and outputs. Rows keep the file's decimals exactly; bounds on inputs are rounded as in `read_vnnlib`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import DomainError
from stablenet.domain.regions import Domain, Part, Union
from stablenet.domain.vnnlib import ContradictionInFileError, Reader
from stablenet.domain.vnnlib_names import DeclaredNetwork, Kind
from stablenet.domain.vnnlib_region import OutputRow, Region
from stablenet.domain.vnnlib_text import Expression, Form, read_text

Conjunction = tuple[OutputRow, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """A part of the inputs and the conjunctions of rows of which one must hold; an empty conjunction always does."""

    part: Part
    conjunctions: tuple[Conjunction, ...]


@dataclass(frozen=True, eq=False)
class Query:
    """What a file asks for: an input at which one of the cases holds.

    ``networks`` are those of version 2 (none for version 1); ``places[k]`` are the entries of the joint input that
    network k reads, ``n_outputs[k]`` how many outputs it declares. In a row, variables from ``n_inputs`` on are the
    outputs, network after network.
    """

    file: str
    networks: tuple[DeclaredNetwork, ...]
    places: tuple[npt.NDArray[np.intp], ...]
    n_inputs: int
    n_outputs: tuple[int, ...]
    cases: tuple[Case, ...]

    @property
    def tied(self) -> bool:
        """Whether all networks read the same input."""
        return all(np.array_equal(places, self.places[0]) for places in self.places)

    @property
    def domain(self) -> Domain:
        """The parts of all cases."""
        return self.cases[0].part if len(self.cases) == 1 else Union([case.part for case in self.cases])


def read_query(path: str | Path) -> Query:
    """All that a VNN-LIB file asserts, of version 1 or 2, plain or compressed.

    Raises `DomainError`, naming the line, for what is not linear, hidden tensors in assertions, strict bounds on
    inputs, and all that `read_vnnlib` refuses.
    """
    path = Path(path)
    try:
        return _QueryReader(read_text(path), str(path)).query()
    except MemoryError:
        raise DomainError(f"{path}: needs more memory than there is (see --memory-limit)") from None


class _QueryReader(Reader):
    """A reader that keeps the comparisons in which outputs occur."""

    def query(self) -> Query:
        """Read the whole text."""
        regions = self.conjunction(self.asserted(), position=0)
        groups: dict[tuple[object, ...], list[Region]] = {}
        for region in regions:
            groups.setdefault(region.input_key(), []).append(region)
        cases, empty = list[Case](), list[ContradictionInFileError]()
        for group in groups.values():
            conjunctions = dict.fromkeys(tuple(region.outputs) for region in group)
            try:
                part = self.part(group[0], self.names.n_inputs)
            except ContradictionInFileError as error:
                empty.append(error)
            else:
                cases.append(Case(part, ((),) if () in conjunctions else tuple(conjunctions)))
        if not cases:
            raise empty[0]
        networks = self.names.networks
        outputs = [network.tensor("Y").size for network in networks] or [self.names.n_outputs()]
        return Query(
            self.name, tuple(networks), tuple(self.names.places), self.names.n_inputs, tuple(outputs), tuple(cases)
        )

    def branch(self, form: Expression, position: int) -> list[Region]:
        """See `Reader`: a branch that can never hold is left out."""
        try:
            return super().branch(form, position)
        except ContradictionInFileError:
            return []

    def on_outputs(self, form: Form, op: str, arguments: Sequence[Expression], kinds: set[Kind]) -> list[Region]:
        """See `Reader`: the rows of one comparison; of ``!=`` the two sides."""
        if "H" in kinds:
            raise self.error(form.position, f"{self.show(form)} constrains a hidden tensor, which is not supported")
        if op not in ("<=", ">=", "<", ">", "=", "==", "!="):
            words = "and, or, <=, >=, <, >, == and != are supported"
            raise self.error(form.position, f"{self.show(form)}: {op!r} on outputs; {words}")
        if len(arguments) < 2:
            raise self.error(form.position, f"{self.show(form)}: two sides are expected")
        if op == "!=":
            if len(arguments) > 2:
                raise self.error(form.position, f"{self.show(form)}: two sides are expected")
            terms, rhs = self.difference(arguments[0], arguments[1], form)
            if not terms and not rhs:
                raise self.contradiction(form.position, f"{self.show(form)} never holds")
            return [self._rows(form, side, arguments) for side in ("<", ">")] if terms else [Region(form.position)]
        return [self._rows(form, op, arguments)]

    def _rows(self, form: Form, op: str, arguments: Sequence[Expression]) -> Region:
        region = Region(form.position)
        for left, right in pairwise(arguments):
            terms, rhs = self.difference(left, right, form)
            if not terms:
                holds = {"<=": rhs >= 0, ">=": rhs <= 0, "<": rhs > 0, ">": rhs < 0}.get(op, rhs == 0)
                if not holds:
                    raise self.contradiction(form.position, f"{self.show(form)} never holds")
                continue
            for one in ("<=", ">=") if op in ("=", "==") else (op,):
                sign = 1 if one in (">=", ">") else -1
                row = tuple((index, sign * value) for index, value in terms.items())
                region.outputs[OutputRow(row, sign * rhs, one in ("<", ">"))] = form.position
        return region

    def index(self, word: str, position: int) -> int | None:
        """See `Reader`: outputs come after all inputs."""
        found = self.names.find(word, position)
        if found is None:
            return None
        return found[1] + (self.names.n_inputs if found[0] == "Y" else 0)
