"""Comparing formulations, bounds, searches and solvers: grids of `find` runs, their store, statistics and page."""
