"""Public functions describe each of their arguments, what they return and what they raise, in sections."""

from __future__ import annotations

import inspect
import re

import pytest

import stablenet

FUNCTIONS = [name for name in stablenet.__all__ if inspect.isfunction(getattr(stablenet, name))]
WITHOUT = {"verify"}


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^(Args|Returns|Raises):$", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in WITHOUT])
def test_a_public_function_says_what_it_takes_returns_and_raises(name: str) -> None:
    function = getattr(stablenet, name)
    found = sections(function.__doc__)
    assert set(found) >= {"Args", "Returns", "Raises"}
    described = re.findall(r"^    \*{0,2}(\w+): \S", found["Args"], flags=re.MULTILINE)
    assert described == list(inspect.signature(function).parameters)
