"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.errors import ProfilerError

if TYPE_CHECKING:
    import pandas as pd


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a data frame as Parquet at `path`, and as CSV beside it, each atomically."""
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
    write_csv(path.with_suffix(".csv"), table)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a data frame as CSV, atomically."""
    write_atomically(path, lambda temporary: table.to_csv(temporary, index=False))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path in the same folder, then move it to `path` in one operation.

    Raises ProfilerError if the folder cannot be made or written.
    """
    temporary = _temporary_beside(path)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        raise ProfilerError(
            f"cannot write to {path.parent} ({error.strerror}); choose another --results"
        ) from error
    return Path(name)
