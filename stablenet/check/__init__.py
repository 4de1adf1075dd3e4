"""The checker of proofs. It shares no line with the methods, searches and solvers whose results it checks."""
