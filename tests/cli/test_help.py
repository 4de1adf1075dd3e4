"""Help in groups, completion by shells, and tables that fit a terminal of 80 columns."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
import typer
from rich.console import Console

from stablenet.cli.lists import render_solvers, solvers_data
from stablenet.cli.main import app
from stablenet.cli.panels import MAIN, PANELS


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stablenet", *arguments], env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", PANELS)
def test_every_option_stands_in_one_group(name: str) -> None:
    command = typer.main.get_command(app).commands[name]
    options = {p.name for p in command.params if p.param_type_name == "option"} - {"help"}
    grouped = [option for names in PANELS[name].values() for option in names]
    assert sorted(grouped) == sorted(options)
    assert next(iter(PANELS[name])) == MAIN
    assert len(PANELS[name][MAIN]) == 6


def test_what_matters_most_comes_first() -> None:
    text = run("find", "--help").stdout
    places = [text.index(f"--{name.replace('_', '-')}") for name in PANELS["find"][MAIN]]
    assert places == sorted(places)
    assert text.index("Arguments:") < text.index("Main options:") < places[0]
    assert places[-1] < text.index("Other files:") < text.index("--page") < text.index("The MILP:")
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", ["bounds", "searches", "formulations", "solvers"])
def test_lists_fit_80_columns_and_lose_nothing(command: str) -> None:
    text = run(command).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_a_shell_can_complete_commands_and_names() -> None:
    def ask(words: str, at: int) -> list[str]:
        done = run(_STABLENET_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(at))
        assert done.stderr == ""
        return done.stdout.split()

    assert ask("stablenet fi", 1) == ["find"]
    assert ask("stablenet find x --bounds cr", 4) == ["crown", "crown-alpha"]
    assert "network" in ask("stablenet find x --search ", 4)
    assert ask("stablenet find x --solver hi", 4) == ["highs"]
    assert "--time-limit" in ask("stablenet find x --ti", 3)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_how_to_install_a_solver_is_shown_as_it_is_typed(width: int) -> None:
    data = solvers_data()
    for one in data["solvers"]:
        if one["solver"] == "gurobi":
            one["installed"] = False
    stream = io.StringIO()
    render_solvers(data, Console(file=stream, width=width))
    assert "to install gurobi: pip install 'stablenet[gurobi]'\n" in stream.getvalue()
