"""Whether two networks compute the same function on a domain: proofs and counterexamples."""

from __future__ import annotations
