"""Campaigns that look for false answers: random cases with fresh seeds, judged against exact arithmetic.

``make hunt MINUTES=30`` runs them; docs/hunting.md says how to read the result and how to add a campaign. Truth comes
from the package `oracle` beside this one, which shares no code with the product.
"""
