"""Mixed-integer linear programs as arrays: affine rows, the compiler from Pyomo, MPS and LP files."""
