"""One HTML file a run: what it takes, its phases, and a timeline that names what happens under the pointer.

Everything is inside the file (SVG, tables, a few lines of script): it needs no network and can be mailed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from profiler import __version__
from profiler.ledger import CATEGORIES, Allocation, Mark
from profiler.plots.phases import CATEGORY_COLOURS
from profiler.timeline import by_category, by_module, levels
from profiler.units import format_bytes

if TYPE_CHECKING:
    from profiler.prediction import Simulation

_WIDTH, _HEIGHT = 1000, 320
_POINTS = 600
_MODULES_SHOWN = 15

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1040px; padding: 0 1rem;
  color: #1b1f24; background: #fff; }}
h1 {{ font-size: 1.4rem; margin-bottom: .2rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .9rem .2rem 0; text-align: left; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th {{ border-bottom: 1px solid #999; }} .verdict {{ font-size: 1.15rem; }}
.key span {{ display: inline-block; margin-right: 1.1rem; }}
.key i {{ display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; }}
#under {{ min-height: 4.6rem; background: #f4f5f7; padding: .5rem .8rem; }}
svg {{ width: 100%; height: auto; display: block; }} text {{ font: 11px system-ui, sans-serif; fill: #555; }}
</style></head><body>
<h1>{title}</h1><p class="verdict">{verdict}</p>
<h2>Allocated over the run</h2>
<p class="key">{key}</p>
{timeline}
<p id="under">Move the pointer over the timeline to see what happens there.</p>
<h2>Phases</h2>{phases}
<h2>At the peak</h2><p>{peak}</p>{categories}
<h2>At the peak, by module</h2>{modules}
<p>Written by profiler {version}. One step to the right is one allocation or free, not a time.
Not included: the CUDA context, cuDNN's and NCCL's own memory.</p>
<script>
const points = {points}, svg = document.getElementById("timeline"), line = document.getElementById("line");
svg.addEventListener("pointermove", event => {{
  const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * {width};
  let near = points[0];
  for (const point of points) if (Math.abs(point.x - x) < Math.abs(near.x - x)) near = point;
  line.setAttribute("x1", near.x); line.setAttribute("x2", near.x); line.setAttribute("opacity", 1);
  document.getElementById("under").textContent = near.text;
}});
</script></body></html>
"""


def html(simulation: Simulation, title: str) -> str:
    """The page, as text."""
    peak = simulation.peak()
    positions, sizes = levels(simulation.entries, _POINTS)
    categories = [category for category in CATEGORIES if category in sizes]
    scale = _Scale(len(simulation.entries), max(simulation.reserved_bytes, default=1))
    where = peak.allocation
    words = [str(peak.phase), where.op if where else ""]
    if where is not None and where.where is not None:
        words += [where.where.module, where.where.line]
    modules = by_module(simulation.entries, peak.position)[:_MODULES_SHOWN]
    return _PAGE.format(
        title=escape(title),
        verdict=escape(_verdict(simulation)),
        key="".join(
            f'<span><i style="background:{CATEGORY_COLOURS[c]}"></i>{_words(c)}</span>' for c in categories
        ),
        timeline=_timeline(simulation, positions.tolist(), {c: sizes[c].tolist() for c in categories}, scale),
        phases=_phases(simulation),
        peak=escape(f"{format_bytes(peak.allocated_bytes)} in " + ", ".join(word for word in words if word)),
        categories=_shares(by_category(simulation.entries, peak.position), peak.allocated_bytes),
        modules=_shares({share.name: share.size_bytes for share in modules}, peak.allocated_bytes),
        points=_embedded(_points(simulation, positions.tolist(), scale)),
        width=_WIDTH,
        version=__version__,
    )


class _Scale:
    """From events and bytes to the drawing's units."""

    def __init__(self, events: int, most_bytes: int) -> None:
        self._events, self._most_bytes = max(1, events), max(1, most_bytes)

    def x(self, position: float) -> float:
        return round(_WIDTH * position / self._events, 1)

    def y(self, size_bytes: float) -> float:
        return round(_HEIGHT * (1 - size_bytes / self._most_bytes), 1)


def _verdict(simulation: Simulation) -> str:
    peak, reserved = simulation.peak(), max(simulation.reserved_bytes, default=0)
    needs = f"peak {format_bytes(peak.allocated_bytes)} allocated, {format_bytes(reserved)} reserved"
    of = f"of {format_bytes(simulation.gpu.memory_bytes)} on {simulation.gpu.name}"
    stopped = simulation.out_of_memory
    return f"Out of memory in {stopped.phase}: {needs}, {of}" if stopped else f"Runs: {needs}, {of}"


def _timeline(
    simulation: Simulation, positions: Sequence[int], sizes: Mapping[str, Sequence[int]], scale: _Scale
) -> str:
    parts = []
    below = [0] * len(positions)
    for category, row in sizes.items():
        above = [low + size for low, size in zip(below, row, strict=True)]
        top = [f"{scale.x(p)},{scale.y(size)}" for p, size in zip(positions, above, strict=True)]
        bottom = [f"{scale.x(p)},{scale.y(size)}" for p, size in zip(positions, below, strict=True)]
        outline = " ".join([*top, *reversed(bottom)])
        parts.append(f'<polygon fill="{CATEGORY_COLOURS[category]}" points="{outline}"/>')
        below = above
    reserved = " ".join(f"{scale.x(p)},{scale.y(simulation.reserved_bytes[p])}" for p in positions)
    parts.append(f'<polyline fill="none" stroke="#333" stroke-dasharray="4 3" points="{reserved}"/>')
    start = 0
    for position, entry in enumerate(simulation.entries):
        if isinstance(entry, Mark):
            middle = scale.x((start + position) / 2)
            parts.append(f'<line x1="{scale.x(position)}" x2="{scale.x(position)}" y1="0" y2="{_HEIGHT}" '
                         'stroke="#bbb" stroke-width=".6"/>')  # fmt: skip
            if scale.x(position - start) > 70:
                label = escape(str(entry.phase))
                parts.append(f'<text x="{middle}" y="{_HEIGHT + 14}" text-anchor="middle">{label}</text>')
            start = position
    most = format_bytes(max(simulation.reserved_bytes, default=0))
    parts.append(f'<text x="4" y="12">{most} reserved (dashed)</text>')
    parts.append(f'<line id="line" x1="0" x2="0" y1="0" y2="{_HEIGHT}" stroke="#000" opacity="0"/>')
    return f'<svg id="timeline" viewBox="0 0 {_WIDTH} {_HEIGHT + 20}" role="img">{"".join(parts)}</svg>'


def _points(simulation: Simulation, positions: Sequence[int], scale: _Scale) -> list[dict[str, Any]]:
    """What the page says under the pointer, for each drawn moment."""
    marks = [
        (index, entry.phase) for index, entry in enumerate(simulation.entries) if isinstance(entry, Mark)
    ]
    points = []
    total = 0
    at = dict.fromkeys(positions, 0)
    alive: dict[int, int] = {}
    for index, entry in enumerate(simulation.entries):
        if isinstance(entry, Allocation):
            alive[entry.address] = entry.size_bytes
            total += entry.size_bytes
        elif not isinstance(entry, Mark):
            total -= alive.pop(entry.address, 0)
        if index in at:
            at[index] = total
    for position in positions:
        phase = next((str(phase) for end, phase in marks if position <= end), "after the last phase")
        words = [phase, f"{format_bytes(at[position])} allocated, "
                        f"{format_bytes(simulation.reserved_bytes[position])} reserved"]  # fmt: skip
        entry = simulation.entries[position]
        if isinstance(entry, Allocation):
            place = entry.where
            words.append(f"{entry.op} asks for {format_bytes(entry.requested_bytes)}")
            words += [word for word in (place.module, place.line) if word] if place else []
        points.append({"x": scale.x(position), "text": " · ".join(words)})
    return points


def _embedded(value: Any) -> str:
    """JSON that cannot end the script it is in."""
    return json.dumps(value).replace("<", "\\u003c")


def _phases(simulation: Simulation) -> str:
    rows = []
    for measurement in simulation.phases:
        account, statistics = measurement.account, measurement.memory_stats
        rows.append(
            (
                str(account.phase),
                format_bytes(account.end_bytes),
                format_bytes(account.peak_bytes),
                format_bytes(statistics["reserved_bytes.all.peak"]),
                account.peak_op,
            )
        )
    return _table(
        ("phase", "allocated at its end", "peak", "peak reserved", "op at the peak"), rows, (1, 2, 3)
    )


def _shares(sizes: Mapping[str, int], total_bytes: int) -> str:
    rows = [
        (_words(name), format_bytes(size), f"{100 * size / total_bytes:.1f} %")
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
    ]
    return _table(("", "bytes", "share"), rows, (1, 2))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="number"' if index in numbers else "" for index in range(len(cells))]
        return "<tr>" + "".join(
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        ) + "</tr>"  # fmt: skip

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _words(category: str) -> str:
    return category.replace("_", " ") if category in CATEGORIES else category
