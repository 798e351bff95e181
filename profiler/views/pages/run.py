"""One HTML file a run: what it takes, its phases, and a timeline that names the block under the pointer.

Everything is inside the file (SVG, tables, a few lines of script): it needs no network and can be mailed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from profiler.device import SIMULATED, VIRTUAL
from profiler.trace.ledger import CATEGORIES
from profiler.trace.moments import has_categories, has_modules, modules_at
from profiler.trace.run import Refusal, Run
from profiler.units import format_bytes
from profiler.views.figures.phases import CATEGORY_COLOURS
from profiler.views.pages.formula import formula_section
from profiler.views.pages.page import image, page, shares, table
from profiler.views.pages.timeline import STYLE, timeline_section

_PARTS_SHOWN = 15
_FAILURES_SHOWN = 3
# What the ledger's categories mean in a recording that names no owners.
_WITHOUT_OWNERS = {"temporaries": "freed within the recording", "unattributed": "alive at its end"}
_NOTES = {
    SIMULATED: "Simulated. Not included: the CUDA context, cuDNN's and NCCL's own memory.",
    VIRTUAL: "On a virtual GPU: kernels did not run. Not included: the CUDA context and NCCL's own memory.",
}


def run_page(run: Run, formula: Sequence[Mapping[str, Any]] = (), ranks: bytes = b"") -> str:
    """The page of a run; `formula` as in formula_section, `ranks` an SVG of the ranks that it is one of."""
    title = f"{run.name} on {run.device}" if run.device.gpu is not None else run.name
    lead, note = _lead(run), " ".join(filter(None, (_NOTES.get(run.device.kind, ""), run.note)))
    peak, entries = run.peak(), run.entries
    named = has_categories(entries)
    phased = bool(run.phases)
    words = {c: c.replace("_", " ") if named else _WITHOUT_OWNERS.get(c, c) for c in CATEGORIES}
    where = [str(peak.phase)]
    if peak.allocation is not None:
        where += [peak.allocation.op, *(peak.allocation.where or ())]
    parts = [
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>',
        f"<h2>Ranks</h2>{image(ranks, '.svg', 'What each rank needs')}" if ranks else "",
        "<h2>Who owns each byte</h2>",
        timeline_section(run, words, {str(each["phase"]): each["peak_bytes"] for each in formula}),
        '<p class="note">One step to the right is one allocation or free, not a time. Of each stretch '
        f"of them the moment with the most allocated is drawn. {escape(note)}</p>",
        *(f'<p class="note">{escape(line)}</p>' for line in run.rests_on),
    ]
    parts += [_refused(run, each) for each in run.refusals[-_FAILURES_SHOWN:]]
    if phased:
        parts.append(f"<h2>Phases</h2>{_phases(run)}")
    parts.append(
        f"<h2>At the peak</h2><p>{format_bytes(peak.allocated_bytes)} allocated in "
        f"{escape(', '.join(word for word in where if word))}</p>"
    )
    total, position = peak.allocated_bytes, peak.position
    if named:
        parts.append(shares(run.by_category(), total, len(CATEGORIES), CATEGORY_COLOURS))
    if has_modules(entries):
        modules = modules_at(entries, position, by_phase=phased)
        parts.append(f"<h3>By module</h3>{shares(modules, total, _PARTS_SHOWN, {})}")
    parts.append(f"<h3>By line</h3>{shares(run.by_line(), total, _PARTS_SHOWN, {})}")
    parts.append(formula_section(formula))
    return page(title, "\n".join(parts), STYLE)


def _lead(run: Run) -> str:
    """The verdict and the peak, in a sentence."""
    gpu, reserved_bytes = run.device.gpu, run.peak_reserved_bytes
    words = f"peak {format_bytes(run.peak().allocated_bytes)} allocated"
    if reserved_bytes is not None:
        words += f", {format_bytes(reserved_bytes)} reserved"
    if gpu is not None:
        words += f" of the {format_bytes(gpu.memory_bytes)} of {gpu.name}"
    if run.out_of_memory:
        return f"Out of memory in {run.out_of_memory.phase}: {words}"
    if run.refusals:
        return f"Out of memory: {words}"
    return f"Runs: {words}" if gpu is not None else words[0].upper() + words[1:]


def _refused(run: Run, refusal: Refusal) -> str:
    """A request without room, and what was alive then."""
    asked, alive = format_bytes(refusal.requested_bytes), run.by_line(refusal.position)
    total = sum(alive.values())
    free = ""
    if refusal.free_bytes is not None:
        free = f"{format_bytes(refusal.free_bytes)} of the device were free, and "
    words = f"{asked} asked for by {refusal}; {free}{format_bytes(total)} allocated here:"
    return f"<h2>Out of memory</h2><p>{escape(words)}</p>{shares(alive, total, _PARTS_SHOWN, {})}"


def _phases(run: Run) -> str:
    rows = []
    for phase in run.phases:
        name, op = str(phase.account.phase).replace("_", " "), phase.account.peak_op
        sizes = (phase.allocated_bytes, phase.peak_allocated_bytes, phase.peak_reserved_bytes)
        rows.append((name, *("" if size is None else format_bytes(size) for size in sizes), op))
    known = any(phase.peak_reserved_bytes is not None for phase in run.phases)
    columns = [0, 1, 2, *([3] if known else []), 4]
    head = ("phase", "allocated at its end", "peak", "peak reserved", "made by")
    return table(
        [head[column] for column in columns],
        [[row[column] for column in columns] for row in rows],
        range(1, len(columns) - 1),
    )
