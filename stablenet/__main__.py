"""``python -m stablenet``: the command line."""

from __future__ import annotations

from stablenet.cli.main import main

if __name__ == "__main__":
    main()
