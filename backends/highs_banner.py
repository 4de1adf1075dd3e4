"""The banner that HiGHS prints when its first solver in a process is made, hidden."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_first_solver = threading.Lock()
_banner_shown = False


@contextmanager
def no_banner() -> Iterator[None]:
    """The first ``Highs()`` of a process prints a banner to file descriptor 1; nothing else hides it."""
    global _banner_shown
    with _first_solver:
        if _banner_shown:
            yield
            return
        _banner_shown = True
        sys.stdout.flush()
        kept = os.dup(1)
        try:
            with Path(os.devnull).open("wb") as sink:
                os.dup2(sink.fileno(), 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
