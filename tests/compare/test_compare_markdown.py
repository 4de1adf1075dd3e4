"""The result of a sweep as Markdown."""

from __future__ import annotations

import re

import pytest
from compare_helpers import make_sweep, stablenet

from stablenet.compare.publish.markdown import sweep_markdown
from stablenet.compare.store import Store
from stablenet.report.report import dumps


def table(text, head):
    """Rows of the first table whose head begins so, as lists of cells."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return [dict(zip(found[0], row, strict=True)) for row in found[2:]]


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path)


def test_tables_hold_the_statistics(sweep):
    with Store(sweep) as store:
        text = sweep_markdown(store, ["solver-profile.svg", "bounds-profile.svg"])
    solvers = {row["solver"]: row for row in table(text, "solver")}
    assert [(name, row["solved"]) for name, row in solvers.items()] == [
        ("cbc", "2"), ("highs", "6"), ("scip", "4"), ("virtual best", "3"),
    ]  # fmt: skip
    assert solvers["highs"]["best on"] == "0.667"
    assert table(text, "a")[0]["bound"] == ">="
    assert "18 of 18 runs (12 solved, 6 time)." in text
    assert "![solver profile](figures/solver-profile.svg)" in text
    assert "bounds-profile" not in text
    assert "## Contradictions" not in text


def test_several_axes_have_a_matrix_of_what_was_solved(sweep):
    with Store(sweep) as store:
        for row in store.rows():
            text = dumps(store.report(row["key"]))
            store.add({**row, "key": f"{row['key']}-loose", "bounds": "interval", "outcome": "time"}, text)
        store.set_plan(row["key"] for row in store.rows(all_rows=True))
        crown, interval = table(sweep_markdown(store), "bounds")
    assert crown == {"bounds": "crown", "cbc": "2/6, >", "highs": "6/6, 1.7", "scip": "4/6, 0.99"}
    assert set(interval.values()) == {"interval", "0/6, >"}


def test_a_lie_comes_first(tmp_path):
    with Store(make_sweep(tmp_path, liar=True)) as store:
        text = sweep_markdown(store)
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert sections[0] == "## Contradictions"
    assert "1 wrong" in text


def test_the_page_command_writes_it_with_its_figures(sweep, tmp_path):
    (tmp_path / "words").write_text("What was learned.\n")
    command = ("page", sweep, "--no-figures", "--results", tmp_path / "r.md", "--text")
    run = stablenet(*command, tmp_path / "words")
    assert run.returncode == 0, run.stderr
    text = (tmp_path / "r.md").read_text()
    assert text.splitlines()[2] == "What was learned."
    shown = re.findall(r"\]\((r/.*?)\)", text)
    assert {f"r/solver-{name}.svg" for name in ("profile", "cactus", "anytime")} == set(shown)
    assert all((tmp_path / name).is_file() for name in shown)
    missing = stablenet(*command, tmp_path / "none")
    assert missing.returncode == 2
    assert "cannot be read" in missing.stderr


def test_a_sweep_without_rows(tmp_path):
    with Store(tmp_path, create=True) as store:
        assert "0 of 0 runs" in sweep_markdown(store)
