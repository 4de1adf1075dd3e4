"""Solver backends, imported as ``stablenet.backends``; each file holds one."""
