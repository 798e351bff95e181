"""Files that are whole or not there."""

import subprocess
import sys

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


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of a file there")
def test_a_disk_without_room_is_one_line_that_says_what_to_do_and_nothing_is_lost(tmp_path):
    """A limit on the size of files stands for the disk: a write beyond it fails halfway."""
    path = tmp_path / "records.csv"
    path.write_text("old")
    code = f"""
import resource, signal
from pathlib import Path
from profiler.errors import ProfilerError
from profiler.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path({str(path)!r}), lambda to: to.write_text(10_000 * "new"))
except ProfilerError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"cannot write {path} (File too large); make room, or choose another folder, and run again; "
        "what was there before is kept\n"
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
