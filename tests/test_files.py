"""Files that are whole or not there."""

import pytest

from profiler.files import write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "records.parquet"
    path.write_bytes(b"old")

    def fail(temporary):
        temporary.write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["records.parquet"]
    assert path.read_bytes() == b"old"
