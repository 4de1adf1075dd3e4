"""Formulations of a ReLU layer, imported as ``stablenet.formulations``; each file holds one."""
