"""Which solvers a test needs, and which of them really ran.

``@pytest.mark.backend("scip")`` skips the test only where that solver is not installed, ``@pytest.mark.browser``
where Playwright or Chromium is not. If the environment variable STABLENET_BACKENDS_RAN names a folder, every
test that passed with a solver is noted there, one line in the file of the solver's name (``chromium`` for
the browser); `.ci/run` fails if a file is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

# A job in the background of a shell starts with Ctrl-C ignored, and its children inherit that: the tests of Ctrl-C
# would wait for nothing.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

RECORD = "STABLENET_BACKENDS_RAN"
NETWORKS = "STABLENET_NETWORKS"


@cache
def why_not(spec: str) -> str | None:
    """Why tests with a solver cannot run here, or None if they can."""
    from stablenet.backends.base import registry

    state = registry.get(spec).available()
    return None if state.installed else f"{spec} is not installed: {state.install}"


@cache
def why_no_browser() -> str | None:
    """Why tests in a browser cannot run here, or None if they can."""
    if find_spec("playwright") is None:
        return "playwright is not installed: pip install playwright"
    return None if shutil.which("chromium") else "chromium is not installed: apt-get install chromium"


ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """A command that a test calls in this process limits its memory and takes over signals, which end the process when
    it is done: no later test, and no browser, is to have that.
    """
    try:
        import resource
    except ImportError:  # Windows: there is no such limit
        resource = None
    limit = None if resource is None else resource.getrlimit(resource.RLIMIT_AS)
    handlers = [signal.getsignal(number) for number in ENDING]
    yield
    for number, handler in zip(ENDING, handlers, strict=True):
        if signal.getsignal(number) is not handler:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, limit)


def solvers(item: pytest.Item) -> list[str]:
    return [str(name) for mark in item.iter_markers("backend") for name in mark.args]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") and (reason := why_no_browser()):
        pytest.skip(reason)
    for spec in solvers(item):
        reason = why_not(spec)
        if reason is not None:
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call):
    report = yield
    folder = os.environ.get(RECORD)
    if folder and report.when == "call" and report.passed:
        browser = ["chromium"] if item.get_closest_marker("browser") else []
        for spec in solvers(item) + browser:
            with (Path(folder) / spec.partition(":")[0]).open("a") as file:
                file.write(f"{item.nodeid}\n")
    return report


@pytest.fixture(scope="session")
def real_networks() -> Path:
    """The folder of public networks and specifications that STABLENET_NETWORKS names; skips without one."""
    folder = os.environ.get(NETWORKS)
    if not folder:
        pytest.skip(f"{NETWORKS} names no folder of public networks")
    return Path(folder)
