"""The tables of an experiment that measures something else than memory: Parquet files, and what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError, first_line
from profiler.files import read_table, write_atomically, write_table

if TYPE_CHECKING:
    import pandas as pd

ABOUT = "about.json"


def read_tables(folder: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """What made the tables in a folder, and the tables by name.

    Raises ProfilerError for files that are not as `write_tables` writes them.
    """
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text())
        known = {name: about[name] for name in ("size", "torch_version", "device_name")}
        return known, {name: read_table(folder / f"{name}.parquet") for name in about["tables"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProfilerError(f"{path} is not as it was written ({first_line(error)})") from None


def write_tables(folder: Path, about: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the tables, and then what made them."""
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table)
    text = json.dumps({**about, "tables": list(tables)}, indent=2)
    write_atomically(folder / ABOUT, lambda temporary: temporary.write_text(text + "\n"))
