import pandas as pd
import pytest

from profiler.errors import ProfilerError
from profiler.records import table as records


def row(**values):
    return {"experiment": "x", "run_key": "k", "source": "measured", "outcome": "ok", **values}


def test_rows_come_back_with_exact_bytes_and_types(tmp_path):
    path = tmp_path / "records.parquet"
    large = 2**53 + 1  # a float64 would lose it
    records.append(path, [row(allocated_bytes=large, seconds=0.5), row(allocated_bytes=None)])
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
