"""No command writes over its inputs or over another of its outputs; what cannot be written is said in one line."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from compare_helpers import make_sweep
from small import dense

from stablenet import find_stable
from stablenet.cli import main as cli
from stablenet.compare.publish.page import write_report_page
from stablenet.compare.store import FILE, Store
from stablenet.compression import compress
from stablenet.core.errors import InputError
from stablenet.core.files import Named, OutputError, guarded, write_text
from stablenet.onnx_io.external_data import external_files


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network under several names, one with external data, samples, a domain; the current folder."""
    net = dense(tmp_path)
    (tmp_path / "soft.onnx").symlink_to(net)
    (tmp_path / "hard.onnx").hardlink_to(net)
    (tmp_path / "sub").mkdir()
    model = onnx.load(str(net))
    onnx.save(model, str(tmp_path / "large.onnx"), save_as_external_data=True, location="large.data", size_threshold=0)
    np.save(tmp_path / "samples.npy", np.zeros((1, 3)))
    np.save(tmp_path / "centre.npy", np.zeros(3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a command, in this process."""
    code = 0
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["stablenet", *arguments])
            code = cli._run(list(arguments))
    finally:
        errors = capsys.readouterr().err
    return code, errors


FIND = "find net.onnx --domain ball:centre.npy:1 --samples samples.npy"


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (f"{FIND} --output net.onnx", "--output NET"),
        (f"{FIND} --output sub/../net.onnx", "--output NET"),
        (f"{FIND} --output soft.onnx", "--output NET"),
        (f"{FIND} --page hard.onnx", "--page NET"),
        (f"{FIND} --output samples.npy", "--output --samples"),
        (f"{FIND} --output centre.npy", "--output --domain"),
        (f"{FIND} --solver-log hard.onnx", "--solver-log NET"),
        (f"{FIND} --output new --page sub/../new", "--page --output"),
        (f"{FIND} --resume old.json --output old.json", "--output --resume"),
        ("find large.onnx --domain box:0:1 --output large.data", "--output external NET"),
        ("find large.onnx --domain box:0:1 --solver-log large.data", "--solver-log external NET"),
        ("compress net.onnx --domain box:0:1 --output hard.onnx", "--output NET"),
        ("compress net.onnx --report old.json --output old.json", "--output --report"),
        ("verify net.onnx large.onnx --domain box:0:1 --output large.data", "--output external B.onnx"),
        ("verify large.onnx net.onnx --domain box:0:1 --output soft.onnx", "--output B.onnx"),
        ("export net.onnx --domain box:0:1 --output model.mps", "--output NET"),
    ],
)
def test_refused_and_both_named(command: str, names: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "old.json").write_text("{}")
    (folder / "model.mps").symlink_to("hard.onnx")
    before = contents(folder)
    code, errors = run(*command.split(), capsys=capsys)
    assert code == 2
    assert errors.count("\n") == 1
    assert "is the same file as" in errors
    assert all(name in errors for name in names.split())
    assert contents(folder) == before


def test_the_guard_holds_for_names_that_are_made_up_later(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("kept")
    (tmp_path / "late").symlink_to("in")
    with guarded([Named("the input", tmp_path / "in")], []):
        with pytest.raises(OutputError, match="is the same file as the input"):
            write_text(tmp_path / "late", "lost")
        write_text(tmp_path / "out", "once")
        with pytest.raises(OutputError, match="already written"), guarded([], []):
            write_text(tmp_path / "out", "twice")
    assert ((tmp_path / "in").read_text(), (tmp_path / "out").read_text()) == ("kept", "once")
    write_text(tmp_path / "out", "by another command")


def test_devices_may_be_named_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "find net.onnx --domain box:-1:1 --output /dev/null --page /dev/null"
    assert run(*command.split(), capsys=capsys) == (0, "")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("find net.onnx --domain box:-1:1 --output /dev/full", 3),
        ("find net.onnx --domain box:-1:1 --page /dev/full", 3),
        ("compress net.onnx --domain box:-1:1 --output /dev/full", 2),
        ("find net.onnx --domain box:-1:1 --output nowhere/r.json", 2),
        ("find net.onnx --domain box:-1:1 --output sub", 2),
        ("find net.onnx --domain box:-1:1 --output net.onnx/r.json", 2),
        ("export net.onnx --domain box:-1:1 --output full.mps", 2),
    ],
)
def test_what_cannot_be_written(command: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "full.mps").symlink_to("/dev/full")
    before = contents(folder)
    found, errors = run(*command.split(), capsys=capsys)
    assert found == code
    assert errors.count("\n") == 1, errors
    assert command.split()[-1] in errors
    assert contents(folder) == before


def test_external_data_is_found(folder: Path) -> None:
    assert external_files(folder / "large.onnx") == [folder / "large.data"]
    assert external_files(folder / "net.onnx") == external_files(folder / "none.onnx") == []
    (folder / "rubbish.onnx").write_bytes(b"location" * 10)
    assert external_files(folder / "rubbish.onnx") == []


# Sweeps

GRID = """
time_limit = 5.0
[[instances]]
name = "one"
network = "net.onnx"
domain = "box:0:1"
[[runs]]
search = ["off"]
"""


@pytest.mark.parametrize("name", [FILE, ".lock", f"{FILE}-wal"])
def test_a_sweep_whose_file_is_an_input(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "grid.toml").write_text(GRID)
    (folder / "sub" / name).symlink_to(folder / "grid.toml")
    before = contents(folder)
    code, errors = run("compare", "grid.toml", "--output", "sub", capsys=capsys)
    assert (code, errors.count("\n")) == (2, 1)
    assert contents(folder) == before


def test_a_page_over_its_own_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep(folder / "sub")
    for output in (f"sub/{FILE}", "sub/runs.csv"):
        before = (folder / "sub" / FILE).read_bytes()
        code, errors = run("page", "sub", "--output", output, capsys=capsys)
        assert (code, errors.count("\n")) == (2, 1)
        if output.endswith(FILE):
            assert (folder / "sub" / FILE).read_bytes() == before


def damaged(folder: Path, kind: str, page: int = 0) -> bytes:
    """A damaged store in the place of a good one; returns its bytes."""
    path = folder / FILE
    data = bytearray(path.read_bytes())
    if kind == "zeroed":
        data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    elif kind == "truncated":
        data = data[: len(data) // 2]
    elif kind == "empty":
        data = bytearray()
    elif kind == "text":
        data = bytearray(b"no store at all\n" * 100)
    else:
        with sqlite3.connect(path) as db:
            if kind == "schema":
                db.execute("UPDATE meta SET value = 'stablenet.sweep/9' WHERE key = 'schema'")
            else:
                db.execute("DROP TABLE reports")
        db.close()
        return path.read_bytes()
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "schema", "tables"])
def test_corrupt_stores_are_refused(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep(folder / "sub")
    (folder / "grid.toml").write_text(GRID)
    data = damaged(folder / "sub", kind)
    for command in (["page", "sub"], ["compare", "grid.toml", "--output", "sub", "--resume"]):
        code, errors = run(*command, capsys=capsys)
        assert (code, errors.count("\n")) == (2, 1), errors
        assert FILE in errors
        assert (folder / "sub" / FILE).read_bytes() == data
        assert {path.name for path in (folder / "sub").iterdir()} <= {FILE, ".lock"}


def test_every_page_that_is_zeroed_is_seen(tmp_path: Path) -> None:
    """Also one in the middle of a long report, where SQLite itself sees nothing wrong."""
    make_sweep(tmp_path)
    with Store(tmp_path, create=True) as store:
        noise = [np.random.default_rng(i).uniform(size=4000).tolist() for i in range(2)]
        store.add_frozen("long", "net0", {"witnesses": noise}, "", "")
        store.set_meta("note", "x" * 20_000)
    whole = (tmp_path / FILE).read_bytes()
    for page in range(len(whole) // 4096):
        damaged(tmp_path, "zeroed", page)
        with pytest.raises(InputError, match=FILE):
            Store(tmp_path)
        (tmp_path / FILE).write_bytes(whole)
    with Store(tmp_path) as store:
        assert json.dumps(store.frozen_report("long")["witnesses"]) == json.dumps(noise)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("net.onnx", {"solver_log": "hard.onnx"}),
        ("soft.onnx", {"proof": "sub/../net.onnx"}),
        ("large.onnx", {"solver_log": "large.data"}),
        ("net.onnx", {"samples": "samples.npy", "proof": "samples.npy"}),
        ("net.onnx", {"domain": "ball:centre.npy:1", "solver_log": "centre.npy"}),
        ("net.onnx", {"proof": "new", "solver_log": "sub/../new"}),
        ("net.onnx", {"resume": "report.json", "solver_log": "report.json"}),
    ],
)
@pytest.mark.parametrize("isolate", [False, True])
def test_a_call_writes_over_nothing_that_it_reads(
    folder: Path, network: str, options: dict[str, str], *, isolate: bool
) -> None:
    find_stable("net.onnx", "box:-1:1", search="off").write("report.json")
    before = contents(folder)
    chosen = {"domain": "box:-1:1", "search": "off", **options}
    with pytest.raises(InputError, match="is the same file as"):
        find_stable(network, chosen.pop("domain"), isolate=isolate, **chosen)
    assert contents(folder) == before


def test_what_a_call_returns_is_written_over_no_file_of_its_run(folder: Path) -> None:
    report = find_stable("large.onnx", "box:-1:1", search="off", samples="samples.npy", proof="a.proof")
    small = compress("large.onnx", report)
    before = contents(folder)
    for taken in ("large.onnx", "large.data", "samples.npy", "a.proof"):
        with pytest.raises(InputError, match="is the same file as"):
            report.write(taken)
        with pytest.raises(InputError, match="is the same file as"):
            write_report_page(report, taken)
    for taken in ("large.onnx", "large.data"):
        with pytest.raises(InputError, match="is the same file as"):
            small.write(taken)
    assert contents(folder) == before
    report.write("report.json")
    report.write("report.json")
    small.write("small.onnx")
    write_report_page(report, "page.html")
