"""One registry for everything that is pluggable: formulations, bounds, searches, backends.

An entry is a class with a ``name``. It is found in the modules of the package given, so that a file
dropped there is enough, and in the entry-point group given, so that another package can add one.
The grammar of a specification is ``name[:argument]``; the class reads the argument in
``from_argument``. An entry that cannot be used is kept as `Broken`: naming it raises, all else works.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, ClassVar, Generic, Protocol, Self, TypeGuard, TypeVar

from stablenet.core.errors import InputError, UnknownNameError
from stablenet.core.signals import is_interrupt


class Pluggable(Protocol):
    """The methods that a class needs for being registered."""

    name: ClassVar[str]

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The instance that ``name:argument`` stands for."""
        ...


T = TypeVar("T", bound=Pluggable)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Broken:
    """An entry that cannot be used: its name, where it comes from, and why.

    ``distribution`` is name and version of the installed package, or '' for a module of this one; ``entry_point`` is
    ``name = value`` as declared, or the module.
    """

    kind: str
    name: str
    distribution: str
    entry_point: str
    cause: str

    def __str__(self) -> str:
        origin = f"{self.distribution}, entry point {self.entry_point}" if self.distribution else self.entry_point
        return f"{self.kind} {self.name!r} of {origin} is broken: {self.cause}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "broken": True}


class BrokenEntryError(InputError):
    """A name whose entry cannot be used; the message says whose it is, and why."""


@dataclass(frozen=True)
class _Origin:
    """Where a class was found; ``own`` if that is a module of the registry's package."""

    distribution: str
    entry_point: str
    own: bool


class Registry(Generic[T]):
    """Classes of one kind by name.

    ``kind`` is the word used in messages, ``base`` the class that entries derive from, ``package``
    the package whose modules are scanned, and ``group`` the entry-point group. ``check`` is given each class of another
    package and returns what is wrong with it, or None.
    """

    def __init__(
        self, kind: str, base: type[T], package: str, group: str, check: Callable[[type[T]], str | None] | None = None
    ) -> None:
        self.kind = kind
        self.base = base
        self.package = package
        self.group = group
        self.check = check

    @property
    def classes(self) -> dict[str, type[T]]:
        """All entries that can be used by name, sorted by name."""
        return self._found[0]

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The entries that cannot be used, sorted by name."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[dict[str, type[T]], tuple[Broken, ...]]:
        broken: list[Broken] = []
        by_name: dict[str, list[tuple[type[T], _Origin]]] = {}
        for cls, origin in self._discover(broken):
            known = by_name.setdefault(cls.name, [])
            if all(other is not cls for other, _ in known):
                known.append((cls, origin))
        classes: dict[str, type[T]] = {}
        for name, claims in by_name.items():
            own = [claim for claim in claims if claim[1].own]
            if len(own or claims) == 1:
                classes[name] = (own or claims)[0][0]
            for cls, origin in claims:
                if classes.get(name) is not cls:
                    others = ", ".join(other.__module__ for other, _ in claims if other is not cls)
                    cause = f"the name {name!r} is already registered by {others}"
                    broken.append(Broken(self.kind, name, origin.distribution, origin.entry_point, cause))
        return dict(sorted(classes.items())), tuple(sorted(broken, key=lambda entry: (entry.name, str(entry))))

    @cache  # noqa: B019 - registries live as long as the process
    def _own(self, name: str) -> type[T] | None:
        """The class of that name in this package, found without importing the others: they cost start-up time.

        A module is looked into if its text has the name. Own classes come before those of other packages, as in
        `classes`. None where no module, or more than one, has such a class: then `classes` says what is wrong.
        """
        package = importlib.import_module(self.package)
        wanted = re.compile(rf"""^    name\b.*= ["']{re.escape(name)}["']""", re.MULTILINE)
        found = []
        for info in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            spec = importlib.util.find_spec(info.name)
            source = getattr(spec.loader, "get_source", None) if spec is not None else None
            text = source(info.name) if source is not None else None
            if text is not None and wanted.search(text):
                origin = _Origin("", info.name, own=True)
                module = self._attempt(partial(importlib.import_module, info.name), origin, [])
                found += [
                    cls
                    for _, cls in inspect.getmembers(module, inspect.isclass)
                    if cls.__module__ == info.name and self._is_entry(cls) and cls.name == name
                ]
        return found[0] if len(found) == 1 else None

    def _discover(self, broken: list[Broken]) -> Iterator[tuple[type[T], _Origin]]:
        package = importlib.import_module(self.package)
        for info in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            origin = _Origin("", info.name, own=True)
            module = self._attempt(partial(importlib.import_module, info.name), origin, broken)
            for _, cls in inspect.getmembers(module, inspect.isclass):
                if cls.__module__ == info.name and self._is_entry(cls):
                    yield cls, origin
        for distribution, points in _points(self.group, self.kind, broken):
            for point in points:
                origin = _Origin(distribution, f"{point.name} = {point.value}", own=False)
                cls = self._attempt(point.load, origin, broken)
                if cls is None:
                    continue
                wrong = self._attempt(partial(self._wrong, cls), origin, broken)
                if wrong:
                    broken.append(Broken(self.kind, point.name, distribution, origin.entry_point, wrong))
                elif wrong is not None:  # None: the check itself raised
                    yield cls, origin

    def _attempt(self, load: Callable[[], Any], origin: _Origin, broken: list[Broken]) -> Any:
        """What ``load`` returns; None where it raises, which is noted: code of other packages may raise anything."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what it prints must not become output of the command
                return load()
        except BaseException as error:
            if isinstance(error, MemoryError) or is_interrupt(error):
                raise
            name = origin.entry_point.partition("=")[0].strip().rpartition(".")[2]
            cause = _one_line(error)
            broken.append(Broken(self.kind, name, origin.distribution, origin.entry_point, cause))
            return None

    def _wrong(self, cls: object) -> str:
        """Why an object of another package cannot be an entry; '' where it can."""
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            return f"it is no {self.kind}: a subclass of {self.base.__name__} is expected"
        if inspect.isabstract(cls):
            return f"it lacks {', '.join(sorted(cls.__abstractmethods__))}"
        name = cls.__dict__.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            return f"its name is {name!r}; letters, digits and -_.+ are expected"
        for attribute in ("title", "paper"):
            text = getattr(cls, attribute, "")
            if not isinstance(text, (str, property)):  # an instance may have its own
                return f"its {attribute} is {text!r:.200}; a line of text is expected"
        return (None if self.check is None else self.check(cls)) or ""

    def _is_entry(self, cls: type[object]) -> TypeGuard[type[T]]:
        return issubclass(cls, self.base) and not inspect.isabstract(cls) and "name" in cls.__dict__

    def names(self) -> tuple[str, ...]:
        """The names that exist."""
        return tuple(self.classes)

    def get(self, spec: str) -> T:
        """The instance for ``name[:argument]``; raises `UnknownNameError`, `BrokenEntryError` or `InputError`."""
        name, colon, argument = spec.partition(":")
        own = self._own(name)
        if own is not None:
            return own.from_argument(argument if colon else None)
        if name not in self.classes:
            causes = [str(entry) for entry in self.broken if entry.name == name]
            if causes:
                raise BrokenEntryError("; ".join(causes))
            raise UnknownNameError(self.kind, name, self.names(), [entry.name for entry in self.broken])
        return self.classes[name].from_argument(argument if colon else None)


def _points(group: str, kind: str, broken: list[Broken]) -> Iterator[tuple[str, list[EntryPoint]]]:
    """The entry points of a group by distribution; of two with one name the first on the path counts."""
    seen: set[str] = set()
    for distribution in distributions():
        try:
            # Reading the metadata of all that is installed takes longer than a search: those that name the group, only.
            if group not in (distribution.read_text("entry_points.txt") or "") or _shadowed(distribution):
                continue
            label = _label(distribution)
            if label in seen:
                continue
            seen.add(label)
            points = [point for point in distribution.entry_points if point.group == group]
        except Exception as error:  # malformed metadata can raise any exception
            broken.append(Broken(kind, "?", _label(distribution), "entry_points.txt", _one_line(error)))
            continue
        yield label, points


def _shadowed(distribution: Distribution) -> bool:
    """Whether another distribution of the same name comes before it on the path."""
    name = distribution.metadata["Name"]
    if not name:
        return False
    first = next(iter(distributions(name=name)), distribution)
    return str(first.locate_file("")) != str(distribution.locate_file("")) or first.version != distribution.version


def _label(distribution: Distribution) -> str:
    """Name and version, or the folder of the metadata where they are missing."""
    try:
        return f"{distribution.metadata['Name']} {distribution.version}"
    except Exception:
        return str(getattr(distribution, "_path", "an unnamed distribution"))


def _one_line(error: BaseException) -> str:
    """Type and message of an error, printable, on one line."""
    try:
        words = " ".join(str(error).split())
    except Exception:
        words = ""
    words = "".join(c if c.isprintable() else "?" for c in words)
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__


def set_check(attribute: str, what: str, kind: type) -> Callable[[type], str | None]:
    """A registry's check: that a class declares a set, such as its capabilities, of ``kind`` and nothing else.

    ``what`` is the word for the set in the message.
    """

    def check(cls: type) -> str | None:
        if isinstance(cls.__dict__.get(attribute), property):  # known of an instance only
            return None
        value = getattr(cls, attribute)
        if isinstance(value, (set, frozenset)) and all(isinstance(item, kind) for item in value):
            return None
        return f"its {what} are {value!r:.200}; a set of {kind.__name__} is expected"

    return check


def listed(registry: Registry[T], entry: Callable[[type[T]], Any]) -> tuple[list[Any], list[Broken]]:
    """``entry(cls)`` of each class, and what is broken, also where ``entry`` fails on a class of another package."""
    rows: list[Any] = []
    broken = list(registry.broken)
    for name, cls in registry.classes.items():
        try:
            rows.append(entry(cls))
        except Exception as error:
            broken.append(Broken(registry.kind, name, "", f"{cls.__module__}.{cls.__qualname__}", _one_line(error)))
    return rows, broken


def refuse_argument(kind: str, name: str, argument: str | None) -> None:
    """Raise `InputError` if an entry that takes no argument was given one."""
    if argument is not None:
        raise InputError(f"{kind} {name!r} takes no argument, got {argument!r}")
