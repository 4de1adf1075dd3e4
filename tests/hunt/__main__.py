"""``python -m tests.hunt``: run the campaigns, or a stored case again."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `hunt` and `oracle` are found, as under pytest

if __name__ == "__main__":
    from hunt.runner import main

    sys.exit(main())
