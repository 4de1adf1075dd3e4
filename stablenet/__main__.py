"""The program ``stablenet``, also ``python -m stablenet``: it can be ended quietly while it is still being loaded."""

from __future__ import annotations

from stablenet.core.signals import end_at_once


def main() -> None:
    """Load the command line and run it."""
    end_at_once("interrupted; nothing is written")
    from stablenet.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
