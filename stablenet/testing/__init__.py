"""Conformance suites for authors of formulations and backends."""
