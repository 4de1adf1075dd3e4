"""Bounds on pre-activations."""
