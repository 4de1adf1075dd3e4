"""A solver's own options, by the names that it has for them: looked up, checked, and listed where they differ from the
defaults.

A backend with `Capability.OPTIONS` lists its options with their defaults (`Backend.native_options`) and says what it
sets for given settings (`Backend.native_settings`). What follows from these two is here: values given as text become
values of the right type, unknown names raise with those that are near, and what differs from the solver's defaults is
listed for reports and pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from stablenet.backends.base import Backend, Capability, NativeOption, Settings, Value

from stablenet.core.errors import InputError, UnknownNameError, UnsupportedError

NEAR = 8
"""How many near names an error lists."""

TRUE, FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


class UnknownOptionError(UnknownNameError):
    """A name that is no option of the solver; the message lists those that are near."""

    def __init__(self, backend: Backend, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = f"option of {backend.title}", name, tuple(sorted(known))
        lower = {other.lower(): other for other in self.known}
        same = [full for other, full in lower.items() if other.rpartition("/")[2] == name.lower()]
        near = [lower[other] for other in get_close_matches(name.lower(), list(lower), NEAR, 0.5)]
        inside = [full for other, full in lower.items() if name.lower() in other]
        found = list(dict.fromkeys([*sorted(same, key=len), *near, *inside]))[:NEAR] or list(self.known[:NEAR])
        InputError.__init__(self, f"{backend.title} has no option {name!r}; near it: {', '.join(found)}")


def split_option(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``; raises `InputError` for anything else."""
    name, equals, value = text.partition("=")
    if not (equals and name.strip() and value.strip()):
        raise InputError(f"solver option {text!r}; NAME=VALUE is expected")
    return name.strip(), value.strip()


def parse_options(backend: Backend, texts: Iterable[str]) -> dict[str, Value]:
    """Values by native name, from texts ``NAME=VALUE``.

    Raises `UnsupportedError` where the solver takes none here, `UnknownOptionError` for a name that it does not have,
    and `InputError` for a value of the wrong type, a name that is given twice, and an option that this package sets
    itself since answers rest on it (tolerances, limits, cutoffs, seeds).
    """
    texts = tuple(texts)
    if not texts:
        return {}
    _need_options(backend)
    known = backend.native_options()
    found: dict[str, Value] = {}
    for text in texts:
        name, value = split_option(text)
        if name not in known:
            raise UnknownOptionError(backend, name, known)
        if name in found:
            raise InputError(f"option {name!r} of {backend.title} is given twice")
        reserved = backend.reserved.get(name) or next(
            (why for start, why in backend.reserved.items() if start.endswith("/") and name.startswith(start)), None
        )
        if reserved is not None:
            raise InputError(f"option {name!r} of {backend.title} is not to be given here: {reserved}")
        found[name] = parse_value(backend, name, known[name], value)
    return found


def parse_value(backend: Backend, name: str, option: NativeOption, text: str) -> Value:
    """A value of the option's type; raises `InputError` where the text is none."""
    kind = type(option.default)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]
    if option.choices:
        words = f"one of {', '.join(option.choices)}"
    try:
        if kind is bool:
            if text.lower() not in TRUE + FALSE:
                raise ValueError
            return text.lower() in TRUE
        if kind is str and option.choices and text.lower() not in {choice.lower() for choice in option.choices}:
            raise ValueError
        return kind(text)
    except ValueError:
        raise InputError(f"option {name!r} of {backend.title}: {text!r}; {words} is expected") from None


def check_options(backend: Backend, texts: Iterable[str], *, defaults: bool) -> None:
    """Raise `InputError` unless the solver takes these options, and can be left at its defaults if that is asked."""
    if defaults:
        _need_options(backend)
    parse_options(backend, texts)


def _need_options(backend: Backend) -> None:
    if not backend.supports(Capability.OPTIONS):
        raise UnsupportedError(
            f"solver {backend.name!r} has no {Capability.OPTIONS.value}: neither its own defaults nor its options "
            "can be asked for"
        )


def changed_options(backend: Backend, settings: Settings) -> dict[str, tuple[Value, Value]]:
    """What a solver is given that differs from its own defaults: ``(value, default)`` by native name.

    Threads, time limit, seed and the place of its log, which every run sets, are not among them; neither is what a
    search asks of single solves (a start, a target, a bound to stop at).
    """
    if not backend.supports(Capability.OPTIONS):
        return {}
    known = backend.native_options()
    given: Mapping[str, Any] = {**backend.native_settings(settings), **dict(settings.options)}
    return {
        name: (value, known[name].default)
        for name, value in given.items()
        if name in known and value != known[name].default
    }
