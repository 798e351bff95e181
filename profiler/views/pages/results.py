"""A folder of results as one HTML file: each experiment's question, its pictures and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.files import read_table
from profiler.records import table as records
from profiler.records.comparison import compare
from profiler.records.own_tables import ABOUT
from profiler.records.select import how_known, last_of_each_run, last_of_each_workload, without_end
from profiler.trace.phase import Phase
from profiler.units import format_bytes
from profiler.views.pages.page import IMAGE_KINDS, image, page, table
from profiler.views.screen import plain

if TYPE_CHECKING:
    import pandas as pd

_RECORDS = "records.parquet"  # this or ABOUT is in each experiment's folder
_ROWS_SHOWN = 40
_WORDS_OF_A_RUN = 3  # columns before its numbers


def results_page(folder: Path, questions: Mapping[str, str]) -> str:
    """The page of every experiment below `folder`, or of the one that it is.

    Args:
        folder: of results.
        questions: by the experiment's name; one without its question is shown all the same.

    Raises ProfilerError if there are no results.
    """
    found = sorted({path.parent for name in (_RECORDS, ABOUT) for path in folder.rglob(name)})
    if not found:
        raise ProfilerError(f"no results in {folder}; `profiler run` makes them")
    names = [str(path.relative_to(folder)) if path != folder else folder.name for path in found]
    title = f"Results: {folder.resolve().name}"
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(found) > 1:
        links = (
            f'<li><a href="#{escape(name)}">{escape(_words(name))}</a>: '
            f"{escape(questions.get(path.name, ''))}"
            for name, path in zip(names, found, strict=True)
        )
        parts.append(f"<ul>{''.join(links)}</ul>")
    for name, path in zip(names, found, strict=True):
        parts.append(f'<h2 id="{escape(name)}">{escape(_words(name))}</h2>')
        parts.append(f'<p class="lead">{escape(questions.get(path.name, ""))}</p>')
        parts += [_picture(each) for each in _pictures(path)]
        tables = [path / _RECORDS] if (path / _RECORDS).exists() else sorted(path.glob("*.parquet"))
        parts += [_table_or_why(file) for file in tables]
    return page(title, "\n".join(parts))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _pictures(folder: Path) -> list[Path]:
    """One file a picture: of its formats the smaller one."""
    stems = sorted(
        {path.with_suffix("") for path in folder.iterdir() if path.suffix in IMAGE_KINDS and path.is_file()}
    )
    return [
        min(
            (p for kind in IMAGE_KINDS if (p := stem.with_suffix(kind)).exists()),
            key=lambda p: p.stat().st_size,
        )
        for stem in stems
    ]


def _picture(path: Path) -> str:
    return image(path.read_bytes(), path.suffix, _words(path.stem))


def _table_or_why(path: Path) -> str:
    """The table, or what is wrong with its file."""
    try:
        return _table(path)
    except ProfilerError as error:
        return f'<p class="note">{escape(plain(str(error)))}</p>'


def _table(path: Path) -> str:
    """A table to open: runs with their peaks, predictions and missing ends; or a table's first rows."""
    notes: list[str] = []
    if path.name == _RECORDS:
        read, notes = records.read_below(path)
        found = last_of_each_workload(last_of_each_run(read))
        notes = [*without_end(found), *notes]
        named, (head, rows) = "runs", _runs(found)
        numbers: Sequence[int] = range(_WORDS_OF_A_RUN, len(head))
    else:
        data = read_table(path)
        named, head, rows = _words(path.stem), list(map(str, data)), [_cells(row) for row in data.to_numpy()]
        numbers = [i for i in range(len(head)) if all(row[i][-1:].isdigit() for row in rows if row[i])]
    more = f", the first {_ROWS_SHOWN} shown" if len(rows) > _ROWS_SHOWN else ""
    return (
        f"<details><summary>{escape(named)}: {len(rows)} rows{more}</summary>"
        f"{table(head, rows[:_ROWS_SHOWN], numbers)}</details>"
        + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    )


def _runs(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """One row a run: its peak, measured or else of the GPU beside it, and how far each prediction is off."""
    sources = ("formula", "textbook", "simulation")
    head = ["run", "how", "peak in", "peak", *(f"{source} off by" for source in sources)]
    runs: dict[str, list[str]] = {}
    rows = rows.assign(known=how_known(rows))
    for truth in ("measured", "simulation"):
        known = rows[(rows["source"] == truth) & (rows["outcome"] == "ok") & ~rows["run_key"].isin(runs)]
        for key, phases in known.groupby("run_key", sort=False):
            top = phases.loc[phases["peak_allocated_bytes"].idxmax()]
            phase = str(Phase(int(top["step"]), str(top["phase"]), int(top["micro_batch"])))
            words = [str(top["workload"]), f"{top['known']}, {top['device']}", phase.replace("_", " ")]
            runs[str(key)] = [*words, format_bytes(int(top["peak_allocated_bytes"])), *("" for _ in sources)]
        of_these = rows[rows["run_key"].isin(known["run_key"])]
        for column, source in enumerate(sources, start=_WORDS_OF_A_RUN + 1):
            if source == truth:
                continue
            for key, phases in compare(of_these, source, truth).groupby("run_key", sort=False):
                peak = int(phases["truth_peak_bytes"].max())
                difference_bytes = int(phases["predicted_peak_bytes"].max()) - peak
                runs[str(key)][column] = _percent(difference_bytes, peak)
    used = [i for i in range(len(head)) if i <= _WORDS_OF_A_RUN or any(cells[i] for cells in runs.values())]
    return [head[i] for i in used], [[cells[i] for i in used] for cells in runs.values()]


def _percent(difference_bytes: int, of_bytes: int) -> str:
    return f"{100 * difference_bytes / of_bytes:+.2f} %" if difference_bytes else "0"


def _cells(values: Sequence[Any]) -> list[str]:
    import pandas as pd

    return ["" if pd.isna(v) else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
