"""A network, a part of the domain, bounds and a formulation as a Pyomo model."""
