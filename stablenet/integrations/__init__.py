"""Bounds and stable neurons for other packages: OMLT, gurobi-machinelearning, PySCIPOpt-ML and PyTorch.

One module for each package, imported by name; the package itself is imported when a function of the module is called.
"""
