"""Conformance suites for authors of formulations, bounds, searches and backends."""
