"""What notebooks and Python show of results, and the typed options."""

from __future__ import annotations

import re
import typing
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from small import dense

from stablenet import Bounds, Box, Report, compress, find_stable, load_onnx, verify, write_report_page
from stablenet.bounds import run
from stablenet.core import html
from stablenet.core.errors import InputError, UnknownNameError
from stablenet.core.options import FindOptions, Options

DOMAIN = Box(-np.ones(3), np.ones(3))


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("showing"))


@pytest.fixture(name="report", scope="module")
def _report(path: Path) -> Report:
    return find_stable(path, DOMAIN, search="off", threads=1)


def well_formed(text: str) -> None:
    import xml.etree.ElementTree as ET

    ET.fromstring(f"<div>{text}</div>".replace("&nbsp;", " "))  # noqa: S314 - our own text


def test_every_result_has_a_line_and_a_table(path: Path, report: Report) -> None:
    network = load_onnx(path)
    bounds = run("crown", network, DOMAIN)
    answer = verify(str(path), str(path), DOMAIN)
    for shown, words in (
        (network, "3 inputs, 12 neurons in 2 layers, 2 outputs"),
        (bounds, r"by .*crown.* \(rigorous\): 12 neurons in 2 layers"),
        (answer, "equal within"),
        (report, r"stable, .* unstable, .* unknown; stopped by|complete"),
    ):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 250
        assert re.search(words, repr(shown)), repr(shown)
        well_formed(shown._repr_html_())
        assert "<table>" in shown._repr_html_()


def test_the_map_has_a_square_for_each_neuron_and_the_table_its_counts(report: Report) -> None:
    text = report._repr_html_()
    assert text.count("<rect") == 12
    for verdict, colour in html.COLOURS.items():
        assert text.count(f'fill="{colour}"') == sum(layer.count(verdict) for layer in report.verdicts())
    assert html.neuron_map([["unknown"] * (html.MOST_CELLS + 1)]) == ""


def test_names_from_files_are_text() -> None:
    assert html.text("<b>\x1b[31m") == html.text("<b>") + html.text("\x1b[31m")
    assert "<b>" not in html.table(["<b>"], [["<b>"]])


def test_bounds_say_what_is_not_rigorous() -> None:
    side = np.array([-1.0, 0.5]), np.array([1.0, 2.0])
    assert "not all rigorous): 2 neurons in 1 layers, 1 undecided" in repr(Bounds.of("mine", [side], rigorous=False))


def test_a_frame_holds_what_the_report_does(report: Report) -> None:
    pytest.importorskip("pandas")
    frame = report.to_frame()
    assert frame.index.names == ["layer", "neuron"]
    assert len(frame) == 12
    for neuron in report.data["neurons"]:
        row = frame.loc[neuron["layer"], neuron["neuron"]]
        assert row["verdict"] == neuron["verdict"]
        assert row["upper"] == neuron["upper"]
        assert row["positive"] == neuron["positive"]["state"]
        assert row["negative_by"] == neuron["negative"].get("by") or neuron["negative"].get("by") is None
    assert frame["verdict"].value_counts().to_dict() == {
        k: v for k, v in report.counts.items() if v and k != "rigorous"
    }


def test_a_page_is_written_from_a_report(report: Report, tmp_path: Path) -> None:
    write_report_page(report, tmp_path / "a.html")
    write_report_page(report.data, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


def test_typed_options_are_the_options() -> None:
    declared = {field.name: field.type for field in fields(Options)}
    hints = {name: hint.__forward_arg__ for name, hint in FindOptions.__annotations__.items()}
    assert hints == declared
    assert not FindOptions.__required_keys__
    assert typing.get_type_hints(find_stable)["options"] == typing.Unpack[FindOptions]


def test_compress_takes_what_find_stable_takes(path: Path) -> None:
    network = load_onnx(path)
    results = [
        compress(network, domain=DOMAIN, search="off", threads=1),
        compress(path, domain="box:-1:1", search="off", threads=1),
        compress(str(path), find_stable(path, DOMAIN, search="off", threads=1)),
        compress(network, find_stable(network, DOMAIN, search="off", threads=1), domain="box:-1:1"),
    ]
    assert len({result.data for result in results}) == 1


def test_compress_refuses_what_it_would_not_use(path: Path) -> None:
    network = load_onnx(path)
    report = find_stable(network, DOMAIN, search="off", threads=1)
    with pytest.raises(InputError, match="solver is an option of finding"):
        compress(path, report, solver="highs")
    with pytest.raises(InputError, match="a report or a domain is missing"):
        compress(path)
    with pytest.raises(UnknownNameError, match="nonsense"):
        compress(path, domain=DOMAIN, nonsense=1)
    made = type(network)(network.n_inputs, network.layers, network.output)
    with pytest.raises(InputError, match="not read from a file"):
        compress(made, domain=DOMAIN)
