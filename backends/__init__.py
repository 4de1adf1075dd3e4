"""Solver backends, imported as ``stablenet.backends``."""
