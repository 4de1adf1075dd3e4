"""The table of operators: the same names as the handlers, and the standard's own defaults."""

from __future__ import annotations

import onnx
import pytest

from stablenet.onnx_io.operators import HANDLERS, OPSETS, supported_operators
from stablenet.onnx_io.semantics import OPERATORS, attribute, gives_inputs, is_scaled, value_of


def test_every_operator_of_the_table_has_a_handler_and_the_reverse() -> None:
    supported_operators()
    assert set(HANDLERS) == set(OPERATORS)


def schemas(name: str) -> list[onnx.defs.OpSchema]:
    """The definitions of an operator in all supported opsets."""
    last = min(OPSETS[1], onnx.defs.onnx_opset_version())
    return [onnx.defs.get_schema(name, opset) for opset in range(OPSETS[0], last + 1) if onnx.defs.has(name, opset)]


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_defaults_are_those_of_the_standard(name: str) -> None:
    found = schemas(name)
    assert found
    for key, default in OPERATORS[name].defaults.items():
        told = [schema.attributes[key] for schema in found if key in schema.attributes]
        assert told, f"no opset has the attribute {key}"
        for entry in told:
            if entry.default_value.name and default is not None:
                assert value_of(entry.default_value) == default, key


@pytest.mark.parametrize("name", sorted(name for name, facts in OPERATORS.items() if facts.inputs_since))
def test_attributes_become_inputs_when_the_standard_says_so(name: str) -> None:
    since = OPERATORS[name].inputs_since
    assert since is not None
    before, after = onnx.defs.get_schema(name, since - 1), onnx.defs.get_schema(name, since)
    assert len(after.inputs) > len(before.inputs)
    assert len(after.attributes) < len(before.attributes) or name.startswith("Reduce")
    assert not gives_inputs(name, since - 1)
    assert gives_inputs(name, since)


def test_attributes_of_a_node() -> None:
    given = onnx.helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5, transB=1)
    assert (attribute(given, "alpha"), attribute(given, "transB"), attribute(given, "beta")) == (0.5, 1, 1.0)
    assert is_scaled(given)
    assert not is_scaled(onnx.helper.make_node("Gemm", ["x", "w"], ["y"], alpha=1.0))
    assert attribute(onnx.helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="VALID"), "auto_pad") == "VALID"
