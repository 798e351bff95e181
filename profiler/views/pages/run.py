"""One HTML file a run: what it takes, its phases, and a timeline that names the block under the pointer.

Everything is inside the file (SVG, tables, a few lines of script): it needs no network and can be mailed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from profiler.trace.events import Mark
from profiler.trace.ledger import CATEGORIES, account
from profiler.trace.load import FailedRequest, SavedRun, until_last_phase
from profiler.trace.moments import by_category, by_line, has_categories, has_modules, modules_at
from profiler.units import format_bytes
from profiler.views.figures.phases import CATEGORY_COLOURS
from profiler.views.pages.formula import formula_section
from profiler.views.pages.page import page, shares, table
from profiler.views.pages.timeline import STYLE, timeline_section

if TYPE_CHECKING:
    from profiler.runs.prediction import Simulation

_PARTS_SHOWN = 15
_FAILURES_SHOWN = 3
# What the ledger's categories mean in a recording that names no owners.
_WITHOUT_OWNERS = {"temporaries": "freed within the recording", "unattributed": "alive at its end"}


def simulation_page(simulation: Simulation, title: str, formula: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page of a simulated run, up to the end of its last phase; `formula` as in formula_section."""
    end = until_last_phase(simulation.entries)
    run = SavedRun(simulation.entries[:end], simulation.reserved_bytes[:end], "")
    stopped = simulation.out_of_memory
    where = f"of the {format_bytes(simulation.gpu.memory_bytes)} of {simulation.gpu.name}"
    verdict = f"Out of memory in {stopped.phase}" if stopped else "Runs"
    note = "Simulated. Not included: the CUDA context, cuDNN's and NCCL's own memory."
    return _page(run, title, f"{verdict}: {_needs(run)} {where}", note, formula_section(formula))


def run_page(run: SavedRun, title: str) -> str:
    """The page of a run read from a file."""
    verdict = "Out of memory: " if run.out_of_memory else ""
    words = verdict + _needs(run)
    return _page(run, title, words[0].upper() + words[1:], run.note)


def _needs(run: SavedRun) -> str:
    words = f"peak {format_bytes(run.peak().allocated_bytes)} allocated"
    if run.reserved_bytes:
        words += f", {format_bytes(max(run.reserved_bytes))} reserved"
    return words


def _page(run: SavedRun, title: str, lead: str, note: str, more: str = "") -> str:
    peak, entries = run.peak(), run.entries
    named = has_categories(entries)
    phased = any(isinstance(entry, Mark) for entry in entries)
    words = {c: c.replace("_", " ") if named else _WITHOUT_OWNERS.get(c, c) for c in CATEGORIES}
    where = [str(peak.phase)]
    if peak.allocation is not None:
        where += [peak.allocation.op, *(peak.allocation.where or ())]
    parts = [
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>',
        "<h2>Who owns each byte</h2>",
        timeline_section(run, words),
        '<p class="note">One step to the right is one allocation or free, not a time. Of each stretch '
        f"of them the moment with the most allocated is drawn. {escape(note)}</p>",
    ]
    parts += [_failed(run, each) for each in run.out_of_memory[-_FAILURES_SHOWN:]]
    if phased:
        parts.append(f"<h2>Phases</h2>{_phases(run)}")
    parts.append(
        f"<h2>At the peak</h2><p>{format_bytes(peak.allocated_bytes)} allocated in "
        f"{escape(', '.join(word for word in where if word))}</p>"
    )
    total, position = peak.allocated_bytes, peak.position
    if named:
        parts.append(shares(by_category(entries, position), total, len(CATEGORIES), CATEGORY_COLOURS))
    if has_modules(entries):
        modules = modules_at(entries, position, by_phase=phased)
        parts.append(f"<h3>By module</h3>{shares(modules, total, _PARTS_SHOWN, {})}")
    parts.append(f"<h3>By line</h3>{shares(by_line(entries, position), total, _PARTS_SHOWN, {})}")
    parts.append(more)
    return page(title, "\n".join(parts), STYLE)


def _failed(run: SavedRun, failed: FailedRequest) -> str:
    """A request that ran out of memory, and what was alive then."""
    asked, free = format_bytes(failed.requested_bytes), format_bytes(failed.free_bytes)
    alive = by_line(run.entries, failed.position)
    total = sum(alive.values())
    words = (
        f"{asked} asked for by {failed.origin}; {free} of the device were free, and {format_bytes(total)} "
        "allocated here:"
    )
    return f"<h2>Out of memory</h2><p>{escape(words)}</p>{shares(alive, total, _PARTS_SHOWN, {})}"


def _phases(run: SavedRun) -> str:
    rows = []
    start = 0
    ends = [index for index, entry in enumerate(run.entries) if isinstance(entry, Mark)]
    for phase, end in zip(account(run.entries), ends, strict=True):
        reserved = format_bytes(max(run.reserved_bytes[start : end + 1])) if run.reserved_bytes else ""
        row = (str(phase.phase).replace("_", " "), format_bytes(phase.peak_bytes), phase.peak_op)
        rows.append((*row, format_bytes(phase.end_bytes), reserved))
        start = end
    columns = [0, 3, 1, *([4] if run.reserved_bytes else []), 2]
    head = ("phase", "peak", "made by", "allocated at its end", "peak reserved")
    return table(
        [head[column] for column in columns],
        [[row[column] for column in columns] for row in rows],
        range(1, len(columns) - 1),
    )
