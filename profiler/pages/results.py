"""A folder of results as one HTML file: each experiment's question, its pictures and its tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler import records
from profiler.catalog import questions
from profiler.compare import compare, latest
from profiler.errors import ProfilerError
from profiler.pages.page import page, table
from profiler.training_step import Phase
from profiler.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

_RECORDS = "records.parquet"
_ROWS_SHOWN = 40
_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


def results_page(folder: Path) -> str:
    """The page of every experiment below `folder`, or of the one that it is.

    Raises ProfilerError if there are no results.
    """
    found = sorted({path.parent for path in folder.rglob("*.parquet")})
    if not found:
        raise ProfilerError(f"no results in {folder}; `profiler run` makes them")
    try:
        asked = questions()
    except ProfilerError:  # outside of a checkout: the tables speak for themselves
        asked = {}
    names = [str(path.relative_to(folder)) if path != folder else folder.name for path in found]
    title = f"Results: {folder.resolve().name}"
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(found) > 1:
        links = (
            f'<li><a href="#{escape(name)}">{escape(_words(name))}</a>: {escape(asked.get(path.name, ""))}'
            for name, path in zip(names, found, strict=True)
        )
        parts.append(f"<ul>{''.join(links)}</ul>")
    for name, path in zip(names, found, strict=True):
        parts.append(f'<h2 id="{escape(name)}">{escape(_words(name))}</h2>')
        parts.append(f'<p class="lead">{escape(asked.get(path.name, ""))}</p>')
        parts += [_picture(image) for image in _pictures(path)]
        tables = [path / _RECORDS] if (path / _RECORDS).exists() else sorted(path.glob("*.parquet"))
        parts += [_table(file) for file in tables]
    return page(title, "\n".join(parts))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _pictures(folder: Path) -> list[Path]:
    """One file a picture: of its formats the smaller one."""
    stems = sorted({path.with_suffix("") for path in folder.iterdir() if path.suffix in _KINDS})
    return [
        min((p for kind in _KINDS if (p := stem.with_suffix(kind)).exists()), key=lambda p: p.stat().st_size)
        for stem in stems
    ]


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    alt = escape(_words(path.stem))
    return f'<figure><img alt="{alt}" src="data:{_KINDS[path.suffix]};base64,{data}"></figure>'


def _table(path: Path) -> str:
    """A table to open: each run's peak and what the formulas say, or a table's first rows."""
    import pandas as pd

    if path.name == _RECORDS:
        head, rows = _runs(latest(records.read(path)))
    else:
        data = pd.read_parquet(path)
        head, rows = [str(name) for name in data.columns], [_cells(row) for row in data.to_numpy()]
    numbers = [i for i in range(len(head)) if rows and all(row[i][-1:].isdigit() for row in rows if row[i])]
    more = f", the first {_ROWS_SHOWN} shown" if len(rows) > _ROWS_SHOWN else ""
    named = "runs" if path.name == _RECORDS else _words(path.stem)
    if path.name == _RECORDS:
        numbers = list(range(2, len(head)))
    return (
        f"<details><summary>{escape(named)}: {len(rows)} rows{more}</summary>"
        f"{table(head, rows[:_ROWS_SHOWN], numbers)}</details>"
    )


def _runs(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """One row a run: the measured peak, its phase, and by how much each prediction of it is off."""
    sources = ("formula", "textbook", "simulation")
    head = ["run", "peak in", "peak", *(f"{source} off by" for source in sources)]
    runs: dict[str, list[str]] = {}
    for column, source in enumerate(sources, start=3):
        compared = compare(rows, source)
        for key, phases in compared.groupby("run_key", sort=False):
            top = phases.loc[phases["measured_peak_bytes"].idxmax()]
            peak, predicted = int(top["measured_peak_bytes"]), int(phases["predicted_peak_bytes"].max())
            phase = Phase(int(top["step"]), str(top["phase"]), int(top["micro_batch"]))
            cells = [str(top["workload"]), str(phase).replace("_", " "), format_bytes(peak), "", "", ""]
            runs.setdefault(str(key), cells)[column] = _percent(predicted - peak, peak)
    used = [i for i in range(len(head)) if i < 3 or any(cells[i] for cells in runs.values())]
    return [head[i] for i in used], [[cells[i] for i in used] for cells in runs.values()]


def _percent(difference_bytes: int, of_bytes: int) -> str:
    return f"{100 * difference_bytes / of_bytes:+.2f} %" if difference_bytes else "0"


def _cells(values: Sequence[Any]) -> list[str]:
    import pandas as pd

    return ["" if pd.isna(v) else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
