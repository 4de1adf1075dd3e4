"""What MkDocs does beyond its plug-ins: run the tutorials, write the reference of commands and names, mend links."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))
from run_blocks import BlockError, run_page  # noqa: E402

API_TREE = ROOT / "build" / "api"
"""Links to the sources as they are imported, where mkdocstrings reads them."""

CONTRIBUTING, CONTRIBUTING_PAGE = ROOT / "CONTRIBUTING.md", "contributing.md"

EXECUTED = ("index.md", "tutorials/")
"""Pages that are run while the site is built. The tests run all pages."""

LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
INTERFACES = (
    "stablenet.formulations.base.Formulation",
    "stablenet.formulations.base.ReluLayer",
    "stablenet.formulations.base.Encoding",
    "stablenet.bounds.base.BoundMethod",
    "stablenet.bounds.base.Context",
    "stablenet.search.base.Search",
    "stablenet.search.base.Problem",
    "stablenet.backends.base.Backend",
    "stablenet.backends.base.Session",
    "stablenet.backends.base.Capability",
    "stablenet.milp.arrays.MILP",
)
"""Where the interfaces for plug-ins are defined. The names that users import are found from `stablenet.__all__`."""

LISTS = ("formulations", "bounds", "searches")


def on_startup(**_: Any) -> None:
    """Lay out the package as it is imported: ``backends`` and ``formulations`` stand inside ``stablenet``."""
    package = API_TREE / "stablenet"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    inside = [path for path in (ROOT / "stablenet").iterdir() if path.name != "__pycache__"]
    for path in [*inside, ROOT / "backends", ROOT / "formulations"]:
        (package / path.name).symlink_to(path)


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """The guide for contributors stands at the root of the repository, and is a page of the site too."""
    files.append(File.generated(config, CONTRIBUTING_PAGE, content=CONTRIBUTING.read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, files: Any, config: Any, **_: Any) -> str:
    """Run a tutorial; put generated text in its places; let links to files outside of docs/ lead to copies."""
    path = CONTRIBUTING if page.file.src_uri == CONTRIBUTING_PAGE else Path(page.file.abs_src_path)
    if config.extra["run_tutorials"] and page.file.src_uri.startswith(EXECUTED):
        try:
            run_page(path)
        except BlockError as error:
            raise PluginError(str(error)) from None
    for name, make in GENERATED.items():
        place = f"<!-- generated: {name} -->"
        if place in markdown:
            markdown = markdown.replace(place, make())
    return LINK.sub(lambda match: _link(match, path, page, files, config), markdown)


def _link(match: re.Match[str], path: Path, page: Any, files: Any, config: Any) -> str:
    target = (path.parent / match[1]).resolve()
    docs = Path(config.docs_dir).resolve()
    anchor = match[2] or ""
    up = "../" * page.file.src_uri.count("/")
    if target == CONTRIBUTING:
        return f"]({up}{CONTRIBUTING_PAGE}{anchor})"
    if target.is_relative_to(docs):
        return f"]({up}{target.relative_to(docs).as_posix()}{anchor})"
    if not target.is_file():
        return match[0]
    uri = f"files/{target.relative_to(ROOT).as_posix()}"
    uri += ".txt" if target.suffix == ".md" else ""
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(target)))
    return f"]({up}{uri}{anchor})"


def _cell(text: object) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, with their whole names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def command_line() -> str:
    """Every command with its arguments and options, from the parser itself."""
    import typer

    from stablenet.cli.main import app

    group = typer.main.get_command(app)
    parts = []
    for name, command in _commands(group):
        usage = [f"stablenet {name}"]
        usage += [_shown(p) for p in command.params if p.param_type_name == "argument"]
        usage += [f"{p.opts[0]} {_shown(p)}" for p in command.params if p.required and p.param_type_name == "option"]
        rows = ["| argument or option | meaning | default |", "|---|---|---|"]
        for p in command.params:
            if p.param_type_name == "argument":
                rows.append(f"| `{_shown(p)}` | {_cell(p.help or '')} | |")
                continue
            names = ", ".join([*p.opts, *p.secondary_opts])
            value = "" if p.is_flag else f" {_shown(p)}"
            rows.append(f"| `{names + value}` | {_cell(p.help or '')} | {_default(p)} |")
        text = "\n\n".join(" ".join(x.split()) for x in (command.help or "").split("\n\n"))
        parts.append(f"## {name}\n\n```text\n{' '.join(usage)} [OPTIONS]\n```\n\n{text}\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _shown(parameter: Any) -> str:
    """The word that stands for the value: as declared, or the argument's name, or the kind of its default."""
    if parameter.metavar is not None:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return {str: "NAME", int: "N", float: "X"}.get(type(parameter.default), "VALUE")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or callable(parameter.default):
        return ""
    if parameter.is_flag:
        return "on" if parameter.default else "off"
    return f"`{_cell(parameter.default)}`"


def public_names() -> str:
    """A mkdocstrings directive for each name of the package's ``__all__``, whatever module it stands in."""
    package = importlib.import_module("stablenet")
    found = [getattr(package, name) for name in package.__all__]
    return "\n\n".join(f"::: {value.__module__}.{value.__qualname__}" for value in found)


def interfaces() -> str:
    """A mkdocstrings directive for each interface."""
    return "\n\n".join(f"::: {name}" for name in INTERFACES)


def plug_ins() -> str:
    """Tables of the formulations, bounds and searches that come along."""
    return "\n\n".join(f"## {name.capitalize()}\n\n{_table(name)}" for name in LISTS)


def _table(kind: str) -> str:
    command = [sys.executable, "-m", "stablenet", kind, "--json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    lines = ["| name | what it is | source |", "|---|---|---|"]
    lines += [f"| `{_cell(row['name'])}` | {_cell(row['title'])} | {_cell(row['paper'])} |" for row in rows]
    return "\n".join(lines)


GENERATED = {"command line": command_line, "public names": public_names, "interfaces": interfaces, "plug-ins": plug_ins}
