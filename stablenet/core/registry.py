"""One registry for everything that is pluggable: formulations, bounds, searches, backends.

An entry is a class with a ``name``. It is found in the modules of the package given, so that a file
dropped there is enough, and in the entry-point group given, so that another package can add one.
The grammar of a specification is ``name[:argument]``; the class reads the argument in
``from_argument``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import entry_points
from typing import ClassVar, Generic, Protocol, Self, TypeGuard, TypeVar

from stablenet.core.errors import InputError, StablenetError, UnknownNameError


class Pluggable(Protocol):
    """What the registry asks of a class."""

    name: ClassVar[str]

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The instance that ``name:argument`` stands for."""
        ...


T = TypeVar("T", bound=Pluggable)


class DuplicateNameError(StablenetError):
    """Two entries of one registry under the same name."""


class Registry(Generic[T]):
    """Classes of one kind by name.

    ``kind`` is the word used in messages, ``base`` the class that entries derive from, ``package``
    the package whose modules are scanned, and ``group`` the entry-point group.
    """

    def __init__(self, kind: str, base: type[T], package: str, group: str) -> None:
        self.kind = kind
        self.base = base
        self.package = package
        self.group = group

    @cached_property
    def classes(self) -> dict[str, type[T]]:
        """All entries by name, sorted by name."""
        found: dict[str, type[T]] = {}
        for cls, origin in self._discover():
            other = found.get(cls.name)
            if other is not None and other is not cls:
                raise DuplicateNameError(
                    f"{self.kind} {cls.name!r} of {origin} is already registered by {other.__module__}"
                )
            found[cls.name] = cls
        return dict(sorted(found.items()))

    def _discover(self) -> Iterator[tuple[type[T], str]]:
        package = importlib.import_module(self.package)
        for info in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            module = importlib.import_module(info.name)
            for _, cls in inspect.getmembers(module, inspect.isclass):
                if cls.__module__ == module.__name__ and self._is_entry(cls):
                    yield cls, module.__name__
        for point in entry_points(group=self.group):
            cls = point.load()
            if not (inspect.isclass(cls) and self._is_entry(cls)):
                raise StablenetError(
                    f"entry point {point.name!r} of group {self.group!r} ({point.value}) is no {self.kind}: "
                    f"a subclass of {self.base.__name__} with a name is expected"
                )
            yield cls, point.value

    def _is_entry(self, cls: type[object]) -> TypeGuard[type[T]]:
        return issubclass(cls, self.base) and not inspect.isabstract(cls) and "name" in cls.__dict__

    def names(self) -> tuple[str, ...]:
        """The names that exist."""
        return tuple(self.classes)

    def get(self, spec: str) -> T:
        """The instance for ``name[:argument]``; raises `UnknownNameError` or `InputError`."""
        name, colon, argument = spec.partition(":")
        if name not in self.classes:
            raise UnknownNameError(self.kind, name, self.names())
        return self.classes[name].from_argument(argument if colon else None)


def refuse_argument(kind: str, name: str, argument: str | None) -> None:
    """Raise `InputError` if an entry that takes no argument was given one."""
    if argument is not None:
        raise InputError(f"{kind} {name!r} takes no argument, got {argument!r}")
