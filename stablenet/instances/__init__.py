"""MILP instances as files: solving folders of them, and the library that is built from trained networks."""
