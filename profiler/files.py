"""Files that are whole or not there, and that two processes never change at once."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.errors import ProfilerError, first_line

if TYPE_CHECKING:
    import pandas as pd

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the quota, or the size of a file


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a data frame as Parquet at `path`, and as CSV beside it, each atomically."""
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
    write_csv(path.with_suffix(".csv"), table)


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet file's table. Raises ProfilerError for a file that is missing, damaged, or something else."""
    import pandas as pd

    try:
        if path.is_dir():  # pandas would read the files in it, as one table
            raise ProfilerError(f"{path} is a folder, not a Parquet file; move it away and run again")
        return pd.read_parquet(path)
    except ProfilerError:
        raise
    except Exception as error:  # of all kinds for a damaged file, a bare OverflowError among them
        raise ProfilerError(
            f"{path} is not a readable Parquet file ({first_line(error)}); move it away and run again"
        ) from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a data frame as CSV, atomically."""
    write_atomically(path, lambda temporary: table.to_csv(temporary, index=False))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path in the same folder, then move it to `path` in one operation.

    Raises ProfilerError if the folder cannot be made or written, the disk is full, or `path` is a folder;
    what was at `path` is then as it was.
    """
    temporary = _temporary_beside(path)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        problem = error.strerror or first_line(error)
        room = "make room, or choose another folder, and run again; " if error.errno in _NO_ROOM else ""
        raise ProfilerError(
            f"cannot write {path} ({problem}); {room}what was there before is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_with(path: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of `path`: of several processes one is inside at a time, the others wait.

    The lock is a hidden empty file beside `path`. The system gives it up when its holder dies in any way.
    `on_wait` is called once if another process is inside.

    Raises ProfilerError if the folder cannot be made or written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            lock.acquire()
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def check_writable(folder: Path) -> None:
    """Raise ProfilerError unless files can be made in `folder`: better before a run than after it."""
    _temporary_beside(folder / "check").unlink()


def _temporary_beside(path: Path) -> Path:
    """A new empty file in the folder of `path`, which is made if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return Path(name)


def _unwritable(folder: Path, error: OSError) -> ProfilerError:
    room = "make room, or " if error.errno in _NO_ROOM else ""
    return ProfilerError(f"cannot write to {folder} ({error.strerror}); {room}choose another folder")
