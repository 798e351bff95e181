import subprocess
import sys
import time

import pandas as pd
import pytest

from profiler.errors import ProfilerError
from profiler.records import table as records
from profiler.records.select import last_of_each_run

pytestmark = pytest.mark.quick

ENDED = {"step": 0, "phase": "forward", "micro_batch": 0, "allocated_bytes": 1, "peak_allocated_bytes": 1}
ABOUT = {"workload": "w", "device": "cpu", "seed": 0, "recorded_at": "2026-01-01", "phase_index": 0}


def row(**values):
    run = {"experiment": "x", "run_key": "k", "source": "measured", "outcome": "ok"}
    return {**run, **ABOUT, **ENDED, **values}


def test_rows_come_back_with_exact_bytes_and_types(tmp_path):
    path = tmp_path / "records.parquet"
    large = 2**53 + 1  # a float64 would lose it
    records.append(
        path, [row(allocated_bytes=large, seconds=0.5), row(allocated_bytes=None, outcome="skipped")]
    )
    found = records.read(path)
    assert found["allocated_bytes"].tolist()[0] == large
    assert found["allocated_bytes"].isna().tolist() == [False, True]
    assert found["allocated_bytes"].dtype == "Int64"
    assert list(found.columns) == list(records.COLUMNS)


def test_the_csv_beside_it_says_the_same(tmp_path):
    records.append(tmp_path / "records.parquet", [row(allocated_bytes=123)])
    assert pd.read_csv(tmp_path / "records.csv")["allocated_bytes"].tolist() == [123]


def test_appending_keeps_what_is_there(tmp_path):
    path = tmp_path / "records.parquet"
    records.append(path, [row(run_key="first")])
    records.append(path, [row(run_key="second")])
    assert records.read(path)["run_key"].tolist() == ["first", "second"]


def test_a_missing_file_has_no_rows(tmp_path):
    assert records.read(tmp_path / "none.parquet").empty


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1 and then nothing PAR1"])
def test_a_corrupt_file_is_named_and_left_alone(tmp_path, content):
    path = tmp_path / "records.parquet"
    path.write_bytes(content)
    with pytest.raises(ProfilerError, match=r"records\.parquet is not a readable Parquet file"):
        records.append(path, [row()])
    assert path.read_bytes() == content


def test_an_old_schema_is_refused_with_its_version(tmp_path):
    path = tmp_path / "records.parquet"
    pd.DataFrame({"schema_version": [0], "run_key": ["k"]}).to_parquet(path)
    with pytest.raises(ProfilerError, match="schema 0, not 1"):
        records.read(path)


def test_a_file_from_before_layouts_were_recorded_is_of_contiguous_ones(tmp_path):
    path = tmp_path / "records.parquet"
    records.frame([row()]).drop(columns="memory_format").to_parquet(path)
    assert records.read(path)["memory_format"].tolist() == ["contiguous_format"]


def test_some_other_parquet_file_is_refused(tmp_path):
    path = tmp_path / "records.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(ProfilerError, match="schema None"):
        records.read(path)


def test_a_column_outside_the_schema_is_a_programming_error():
    with pytest.raises(KeyError, match="memory"):
        records.frame([row(memory=1)])


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProfilerError, match="cannot write to"):
        records.append(tmp_path / "file" / "records.parquet", [row()])


def test_processes_that_append_at_once_keep_every_row_once(tmp_path):
    """20 pairs, each with a file of its own; both of a pair wait for the same moment."""
    path, start = tmp_path / "records.parquet", "import time, sys; from pathlib import Path\n"
    program = start + (
        "from profiler.records import table\n"
        "while time.time() < float(sys.argv[3]): pass\n"
        "for pair in range(20):\n"
        "    rows = [{'run_key': f'{sys.argv[2]}-{pair}', 'source': 'measured', 'outcome': 'skipped',\n"
        "             'workload': 'w', 'device': 'cpu', 'recorded_at': '2026', 'phase_index': i}\n"
        "            for i in range(3)]\n"
        "    table.append(Path(sys.argv[1]) / f'{pair}' / 'records.parquet', rows)\n"
    )
    moment = str(time.time() + 3)
    pair = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name, moment]) for name in "ab"]
    assert [process.wait() for process in pair] == [0, 0]
    for index in range(20):
        found = records.read(tmp_path / f"{index}" / path.name)
        rows = sorted(zip(found["run_key"], found["phase_index"], strict=True))
        assert rows == [(f"{name}-{index}", phase) for name in "ab" for phase in range(3)]


def test_a_phase_recorded_twice_in_one_second_counts_once_and_is_said(tmp_path):
    path = tmp_path / "records.parquet"
    for allocated in (1, 2):
        records.append(path, [row(phase_index=i, allocated_bytes=allocated) for i in range(3)])
    rows, said = records.read_below(tmp_path)
    assert len(rows) == 6
    assert said == ["3 rows of 1 runs are recorded twice; of each the last is taken"]
    assert last_of_each_run(rows)["allocated_bytes"].tolist() == [2, 2, 2]


def test_a_damaged_file_among_others_is_one_line_and_the_rest_is_read(tmp_path):
    for name in ("a", "b"):
        records.append(tmp_path / name / "records.parquet", [row(run_key=name)])
    (tmp_path / "a" / "records.parquet").write_bytes(b"PAR1")
    rows, said = records.read_below(tmp_path)
    assert rows["run_key"].tolist() == ["b"]
    assert len(said) == 1
    assert "a/records.parquet is not a readable Parquet file" in said[0]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("run_key", None, "a row has no run_key"),
        ("peak_allocated_bytes", None, "a row has no peak_allocated_bytes"),
        ("allocated_bytes", 2**62, "allocated_bytes is absurd"),
        ("step", [[1, 2]], "is damaged"),
    ],
)
def test_rows_that_no_run_can_have_are_refused(tmp_path, column, value, words):
    path = tmp_path / "records.parquet"
    table = records.frame([row()]).astype({column: object})
    table[column] = pd.Series([value], dtype=object)
    table.to_parquet(path)
    with pytest.raises(ProfilerError, match=words) as caught:
        records.read(path)
    assert "\n" not in str(caught.value)
