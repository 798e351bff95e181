"""Every verb on damaged results: it shows the rest, or says in one line what is wrong; never a traceback."""

import shutil

import pandas as pd
import pytest

from profiler.cli import main
from profiler.records import table as records
from profiler.trace.events import Allocation, Free, Mark
from profiler.trace.phase import Phase
from tests.support.runs import run_of

ENTRIES = [
    Allocation(512, 1024, 1000, "mm"),
    Mark(Phase(1, "forward"), {512: "parameters"}),
    Allocation(2048, 512, 512, "mul"),
    Free(2048),
    Mark(Phase(1, "backward"), {512: "parameters"}),
]


def rows(key, allocated):
    about = {"run_key": key, "workload": key, "model": "m", "optimizer": "adam", "device": "cpu", "seed": 0}
    where = {"outcome": "ok", "phase_index": 0, "step": 1, "phase": "forward", "micro_batch": 1}
    sizes = {"allocated_bytes": allocated, "peak_allocated_bytes": allocated}
    run = {**about, **where, **sizes, "layers": 0, "recorded_at": "2026-01-01"}
    return [{**run, "source": source} for source in ("measured", "formula", "simulation")]


def results(folder):
    records.append(folder / "one" / "records.parquet", rows("first", 100))
    records.append(folder / "two" / "records.parquet", rows("second", 200))
    (folder / "three").mkdir()
    (folder / "three" / "about.json").write_text('{"tables": ["some"]}')
    pd.DataFrame({"x": [1.5, 2.5]}).to_parquet(folder / "three" / "some.parquet")
    return folder


def changed(path, **values):
    table = pd.read_parquet(path)
    for name, value in values.items():
        table[name] = pd.Series([value] * len(table), dtype=object)
    table.to_parquet(path)


def as_folder(path):
    path.unlink()
    path.mkdir()


def again(path):
    table = pd.read_parquet(path)
    pd.concat([table, table]).to_parquet(path)


DAMAGES = {
    "no rows": lambda one, three: pd.read_parquet(one).iloc[:0].to_parquet(one),
    "truncated": lambda one, three: one.write_bytes(one.read_bytes()[:900]),
    "empty": lambda one, three: one.write_bytes(b""),
    "text": lambda one, three: one.write_text("hello"),
    "missing": lambda one, three: one.unlink(),
    "a folder": lambda one, three: as_folder(one),
    "every row twice": lambda one, three: again(one),
    "another table": lambda one, three: pd.DataFrame({"a": [1]}).to_parquet(one),
    "no keys": lambda one, three: changed(one, run_key=None),
    "no outcome": lambda one, three: changed(one, outcome=None),
    "unknown words": lambda one, three: changed(one, outcome="well", source="guess", phase="[/red]\x1b[2J"),
    "no seed": lambda one, three: changed(one, seed=None),
    "no words": lambda one, three: changed(one, model=None, optimizer=None, detail=None),
    "no sizes": lambda one, three: changed(one, allocated_bytes=None),
    "negative sizes": lambda one, three: changed(one, allocated_bytes=-5, peak_allocated_bytes=-5),
    "nothing": lambda one, three: changed(one, allocated_bytes=0, peak_allocated_bytes=0),
    "absurd sizes": lambda one, three: changed(one, peak_allocated_bytes=2**62),
    "lists": lambda one, three: changed(one, step=[1, 2]),
    "about.json is no JSON": lambda one, three: (three / "about.json").write_text("{"),
    "about.json is a folder": lambda one, three: as_folder(three / "about.json"),
    "a table of an experiment is cut": lambda one, three: (three / "some.parquet").write_bytes(b"PAR1"),
    "a table of an experiment is a folder": lambda one, three: as_folder(three / "some.parquet"),
    "a picture is a folder": lambda one, three: (three / "plot.png").mkdir(),
    "a picture is empty": lambda one, three: (three / "plot.svg").write_bytes(b""),
}
COMMANDS = [
    ["show", "BAD"],
    ["show", "BAD", "--source", "simulation"],
    ["show", "BAD/one"],
    ["report", "BAD", "-o", "PAGE"],
    ["report", "BAD/one", "-o", "PAGE"],
    ["diff", "GOOD", "BAD"],
    ["diff", "BAD", "GOOD", "--json"],
    ["diff", "BAD", "BAD"],
]


def run(capsys, command):
    """Run a verb; what it printed. An error is one line, and any exception fails the test."""
    code = main(command)
    said = capsys.readouterr()
    assert "\x1b" not in said.out
    if code == 1:
        assert len(said.err.splitlines()) == 1, said.err
        assert said.err.startswith("profiler: ")
    else:
        assert code == 0
        assert said.err == ""
    return said.out + said.err


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_verb_shows_the_rest_or_says_one_line(capsys, tmp_path, damage):
    good, bad, page = results(tmp_path / "good"), results(tmp_path / "bad"), tmp_path / "page.html"
    DAMAGES[damage](bad / "one" / "records.parquet", bad / "three")
    names = {"GOOD": str(good), "BAD": str(bad), "BAD/one": str(bad / "one"), "PAGE": str(page)}
    for command in COMMANDS:
        run(capsys, [names.get(word, word) for word in command])
    # What is not damaged is there.
    assert "second" in run(capsys, ["show", str(bad)])
    run(capsys, ["report", str(bad), "-o", str(page)])
    assert "second" in page.read_text()


TRACES = {
    "no rows": lambda table: table.iloc[:0],
    "no marks": lambda table: table[table["kind"] != "mark"],
    "only marks": lambda table: table[table["kind"] == "mark"],
    "unknown kinds": lambda table: table.assign(kind="nonsense"),
    "no kinds": lambda table: table.assign(kind=None),
    "unknown categories": lambda table: table.assign(category="nonsense"),
    "no categories": lambda table: table.assign(category=None),
    "no names of phases": lambda table: table.assign(phase=None),
    "no operations": lambda table: table.assign(op=None),
    "modules but no lines": lambda table: table.assign(module="a", line=None),
    "no sizes": lambda table: table.assign(size_bytes=pd.Series([None] * len(table), dtype="Int64")),
    "negative sizes": lambda table: table.assign(size_bytes=-(2**62)),
    "huge sizes": lambda table: table.assign(size_bytes=2**62, requested_bytes=2**62),
    "sizes in words": lambda table: table.assign(size_bytes="x"),
    "lists": lambda table: table.assign(address=[[1, 2]] * len(table)),
    "rows twice": lambda table: pd.concat([table, table]),
    "a column missing": lambda table: table.drop(columns="op"),
}


@pytest.mark.parametrize("damage", TRACES)
def test_a_damaged_saved_run_is_shown_or_one_line(capsys, tmp_path, damage):
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    run_of(ENTRIES).save(good)
    TRACES[damage](pd.read_parquet(good)).to_parquet(bad, index=False)
    run(capsys, ["report", str(bad), "-o", str(tmp_path / "page.html")])
    run(capsys, ["diff", str(good), str(bad)])
    run(capsys, ["diff", str(bad), str(good), "--json"])
    run(capsys, ["diff", str(bad), str(good), "--output", str(tmp_path / "plot.png")])


def test_a_folder_where_a_file_belongs_and_a_file_where_a_folder_belongs(capsys, tmp_path):
    good = results(tmp_path / "good")
    trace = tmp_path / "trace.parquet"
    run_of(ENTRIES).save(trace)
    file = tmp_path / "file"
    file.write_text("")
    for command in (
        ["replay", str(good)],
        ["explain", str(good), "--against", "mlp-tiny"],
        ["show", str(file)],
        ["diff", str(file), str(good)],
        ["diff", str(trace), str(good)],
        ["report", str(trace), "-o", str(good)],
        ["report", str(trace), "-o", str(file / "page.html")],
        ["diff", str(trace), str(trace), "--output", str(good)],
        ["run", "naive_step", "--size", "small", "--results", str(file)],
    ):
        assert "profiler: " in run(capsys, command), command
    shutil.rmtree(good)
