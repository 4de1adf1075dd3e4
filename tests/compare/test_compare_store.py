"""The store: exact reports, readers beside a writer, a kill at any moment."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from stablenet.compare.contradictions import find_contradictions, wrong_keys
from stablenet.compare.publish.tables import as_csv, as_latex, slug, write_csv, write_parquet
from stablenet.compare.rows import outcome_of, pending_in, states_of
from stablenet.compare.store import COLUMNS, FILE, Store
from stablenet.core.errors import InputError
from stablenet.report.report import dumps

POINTS = [[0.1, -0.0], [0.0, 1 / 3], [1e-300, 2.5]]


def report(states, *, witnesses=POINTS, status="complete"):
    """A report of one neuron per pair of states, as far as comparisons read it."""

    def question(state):
        extra = {
            "witnessed": {"witness": 1, "by": "network"},
            "refuted": {"by": "network", "rigorous": False},
            "open": {},
        }
        return {"state": state, **extra[state]}

    neurons = [
        {"layer": 0, "neuron": i, "verdict": "unknown" if "open" in pair else "unstable",
         "positive": question(pair[0]), "negative": question(pair[1])}
        for i, pair in enumerate(states)
    ]  # fmt: skip
    return {"status": status, "stopped_by": None, "neurons": neurons, "witnesses": witnesses}


def add(store, key, states, *, solver="highs", frozen=None, outcome="solved", **more):
    text = dumps({**report(states), **more})
    digest = hashlib.sha256(text.encode()).hexdigest()
    method = {
        "formulation": "bigm",
        "bounds": "crown",
        "search": "network",
        "step": "fair",
        "solver": solver,
        "seed": 0,
    }
    row = {"key": key, "instance": "net", **method, "outcome": outcome, "reason": "", "report_sha256": digest}
    store.add(row, text, frozen)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path, create=True) as made:
        yield made


def test_reports_come_back_byte_by_byte(store):
    store.add_frozen("f", "net", report([("open", "open")], witnesses=POINTS[:2]), "", "command")
    add(store, "k", [("witnessed", "open")], frozen="f")
    found = store.report("k")
    assert dumps(found) == dumps(report([("witnessed", "open")]))
    # Witnesses of the frozen set are kept once; -0.0 and 0.0 are not the same bytes.
    slim = store.db.execute("SELECT report FROM reports").fetchone()[0]
    assert json.loads(zlib.decompress(slim))["witnesses"] == [0, 1, POINTS[2]]
    assert store.report("absent") is None


def test_a_damaged_report_is_noticed(store):
    add(store, "k", [("witnessed", "open")])
    store.db.execute("UPDATE runs SET report_sha256 = 'x'")
    with pytest.raises(InputError, match="digest"):
        store.report("k")


def test_only_planned_rows_are_shown_in_their_order(store):
    for key in "abc":
        add(store, key, [("open", "open")])
    store.set_plan(["c", "a"])
    assert [row["key"] for row in store.rows()] == ["c", "a"]
    assert len(store.rows(all_rows=True)) == 3
    assert store.done() == {"a", "b", "c"}
    store.remove(["a"])
    assert [row["key"] for row in store.rows()] == ["c"]
    assert store.report("a") is None


def test_unknown_columns_are_refused(store):
    with pytest.raises(InputError, match="colour"):
        store.add({"key": "k", "colour": 1})


def test_a_sweep_begun_by_an_earlier_version_goes_on(store, tmp_path):
    add(store, "k", [("witnessed", "open")])
    store.set_plan(["k"])
    store.db.execute("ALTER TABLE runs DROP COLUMN cuts_s")
    assert store.rows()[0]["cuts_s"] is None
    with Store(tmp_path, create=True) as again:
        again.add({"key": "l", "instance": "net", "cuts_s": 1.5})
        again.set_plan(["k", "l"])
        assert [row["cuts_s"] for row in again.rows()] == [None, 1.5]


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(InputError, match="no sweep is here"):
        Store(tmp_path)
    (tmp_path / FILE).write_bytes(b"x" * 5000)
    with pytest.raises(InputError, match="not a readable sweep"):
        Store(tmp_path)


def test_a_second_process_reads_while_rows_are_written(store, tmp_path):
    add(store, "a", [("open", "open")])
    store.set_plan(["a", "b"])
    with Store(tmp_path) as reader:
        assert len(reader.rows()) == 1
        add(store, "b", [("open", "open")])
        assert len(reader.rows()) == 2


def test_a_killed_writer_loses_nothing_that_was_committed(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom stablenet.compare.store import Store\n"
        "store = Store(Path(sys.argv[1]), create=True)\nstore.set_plan(f'k{i}' for i in range(100000))\n"
        "for i in range(100000):\n"
        "    store.add({'key': f'k{i}', 'outcome': 'solved'}, None)\n    print(i, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    last = [int(writer.stdout.readline()) for _ in range(20)][-1]
    time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
    said = [int(line) for line in writer.stdout.read().splitlines() if line]
    writer.wait()
    writer.stdout.close()
    committed = max([last, *said]) + 1
    with Store(tmp_path) as after:
        assert committed <= len(after.rows()) <= committed + 1
        assert after.db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_contradictions_between_runs(store):
    add(store, "honest", [("witnessed", "open"), ("witnessed", "refuted")])
    add(store, "liar", [("refuted", "open"), ("refuted", "refuted")], solver="liar")
    add(store, "careful", [("open", "open"), ("open", "open")], solver="scip")
    store.set_plan(["careful", "liar", "honest"])
    (found,) = find_contradictions(store)
    assert (found["refuted"], found["witnessed"]) == ("liar", "honest")
    assert (found["questions"], found["layer"], found["neuron"], found["side"]) == (2, 0, 0, "positive")
    assert found["point"] == POINTS[1]
    assert "liar" in found["text"]
    assert list(wrong_keys([found])) == ["liar"]


def test_two_refutations_are_no_contradiction(store):
    add(store, "a", [("refuted", "open")])
    add(store, "b", [("open", "refuted")])
    store.set_plan(["a", "b"])
    assert find_contradictions(store) == []


def test_a_run_that_contradicts_itself_is_listed(store):
    own = [{"source": "network", "layer": 0, "neuron": 0, "side": "positive", "witness": 1}]
    add(store, "a", [("witnessed", "open")], outcome="contradiction", contradictions=own)
    store.set_plan(["a"])
    (found,) = find_contradictions(store)
    assert found["refuted"] == found["witnessed"] == "a"
    assert "this run" in found["text"]


def test_wrong_rows_are_marked(store):
    add(store, "honest", [("witnessed", "open")])
    add(store, "liar", [("refuted", "open")])
    store.set_plan(["liar", "honest"])
    store.mark_wrong(wrong_keys(find_contradictions(store)))
    outcomes = {row["key"]: row["outcome"] for row in store.rows()}
    assert outcomes == {"liar": "wrong", "honest": "solved"}
    # It is found again when the sweep goes on.
    assert [item["refuted"] for item in find_contradictions(store)] == ["liar"]


def test_a_disagreement_that_no_report_holds_is_listed(store):
    add(store, "a", [("open", "open")], outcome="contradiction")
    store.db.execute("UPDATE runs SET reason = 'two solvers disagree'")
    store.set_plan(["a"])
    (found,) = find_contradictions(store)
    assert "two solvers disagree" in found["text"]
    store.mark_wrong(wrong_keys([found]))
    assert store.rows()[0]["outcome"] == "contradiction"


def test_states_and_pending_questions():
    made = report([("witnessed", "refuted"), ("open", "witnessed"), ("open", "open")])
    np.testing.assert_array_equal(states_of(made), [[1, 0, 0], [2, 1, 0]])
    assert pending_in(made) == 3


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        ((0, None, "", {"status": "complete", "stopped_by": None}), "solved"),
        ((3, None, "", {"status": "stopped", "stopped_by": "time"}), "time"),
        ((3, None, "", {"status": "stopped", "stopped_by": "memory"}), "memory"),
        ((3, None, "", {"status": "stopped", "stopped_by": "search"}), "incomplete"),
        ((3, None, "", {"status": "stopped", "stopped_by": "borderline"}), "borderline"),
        ((3, None, "stablenet: it said no\n", {"status": "stopped", "stopped_by": "solver"}), "solver"),
        (
            (
                3,
                None,
                "stablenet: the engine process was ended by SIGSEGV",
                {"status": "stopped", "stopped_by": "solver"},
            ),
            "crash",
        ),
        ((3, "memory", "", {"status": "stopped", "stopped_by": "solver"}), "memory"),
        ((-9, "wall", "", None), "hang"),
        ((2, None, "stablenet: no such file", None), "refused"),
        ((4, None, "", {"status": "complete", "stopped_by": None}), "contradiction"),
        ((1, None, "Traceback\nKeyError: 1\n", None), "crash"),
        ((-11, None, "", None), "crash"),
        ((3, None, "", {"status": "stopped", "stopped_by": "interrupt"}), "interrupted"),
    ],
)
def test_outcomes(arguments, outcome):
    found, reason = outcome_of(*arguments)
    assert found == outcome
    if outcome == "crash":
        assert reason


def test_export_of_rows(store, tmp_path):
    add(store, "a", [("open", "open")])
    store.set_plan(["a"])
    with write_csv(store.rows(), tmp_path / "runs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == list(COLUMNS)
    assert (row["key"], row["solver"], row["nodes"]) == ("a", "highs", "")


def test_export_to_parquet(store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    add(store, "a", [("open", "open")])
    store.set_plan(["a"])
    read = parquet.read_table(write_parquet(store.rows(), tmp_path / "runs.parquet"))
    assert read.column_names == list(COLUMNS)
    assert read.to_pylist()[0]["solver"] == "highs"
    assert str(read.schema.field("work_s").type) == "double"


def test_tables_for_papers():
    table = [
        {"member": "big_m & 50 %", "par2": 1234.56, "sgm1": 0.012345, "outcomes": {"solved": 2, "time": 1}, "p": None}
    ]
    columns = {"member": "", "par2": "PAR2", "sgm1": "SGM 1 s", "outcomes": "not solved", "p": "p"}
    text = as_latex(columns, table)
    assert r"big\_m \& 50 \% & 1235 & 0.0123 & 1 time \\" in text
    assert "& p" not in text
    assert as_csv(columns, table).splitlines()[1] == "big_m & 50 %,1234.56,0.012345,1 time,"
    assert as_latex({"bound": "bound"}, [{"bound": ">="}, {"bound": "~"}]).count("$") == 4
    assert slug("net 1/box:0:1") == "net-1-box-0-1"


def test_the_file_is_plain_sqlite(store, tmp_path):
    add(store, "a", [("open", "open")])
    db = sqlite3.connect(tmp_path / FILE)
    assert db.execute("SELECT solver, outcome FROM runs").fetchall() == [("highs", "solved")]
    db.close()
