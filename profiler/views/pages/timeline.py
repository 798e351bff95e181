"""The interactive timeline of a report: who owns each byte over the run, and the block under the pointer.

The picture is SVG and stands without script. The script (timeline.js) knows every block that is alive at a
moment that is drawn: its birth, death, size, category and place. At the moment under the pointer it stacks
them as the picture does, by category and then by birth, and so finds the one at the pointer's height; a click
lists all of them by category, module and line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from profiler.trace.events import Allocation, Entries, Mark
from profiler.trace.ledger import CATEGORIES, categories
from profiler.trace.moments import containers, has_modules, layers_together, levels, lifetimes
from profiler.trace.run import Run
from profiler.units import format_bytes
from profiler.views.figures.phases import CATEGORY_COLOURS

if TYPE_CHECKING:
    import numpy as np

_WIDTH, _HEIGHT = 1000, 340
_LEFT, _BELOW = 62, 34  # room for the scale and for the names of the phases
_POINTS = 1000
_NARROWEST = 62  # a narrower phase bears no name
_TICKS = 5
_PARTS_SHOWN = 15  # of each division of what is alive
_STACKED = (*(category for category in CATEGORIES if category != "rounding"), "rounding")  # from below

STYLE = """
.key span { display: inline-block; margin-right: 1.1rem; white-space: nowrap; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; border-radius: 2px; }
#timeline { width: 100%; height: auto; display: block; cursor: crosshair; touch-action: pan-y; }
#timeline text { font: 11px system-ui, sans-serif; fill: var(--muted); }
#timeline .grid { stroke: var(--line); stroke-width: .7; }
#timeline .phase { stroke: var(--page); stroke-width: 1; opacity: .8; }
#timeline .reserved { fill: none; stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 4 3; }
#timeline .bound { stroke: #d55e00; stroke-width: 1.6; } .key .bound { color: #d55e00; }
#alive { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: start; }
#alive h3, #alive p { flex-basis: 100%; } #alive caption { text-align: left; color: var(--muted); }
#alive table { max-width: 100%; } #alive td { overflow-wrap: anywhere; }
#block { fill: #000; fill-opacity: .25; stroke: var(--ink); stroke-width: 1; }
#moment { stroke: var(--ink); stroke-width: .8; }
#tooltip { position: fixed; z-index: 1; max-width: 30rem; padding: .5rem .7rem; border-radius: 6px;
  background: var(--page); border: 1px solid var(--line); box-shadow: 0 3px 14px #0003; pointer-events: none;
  font-size: .85rem; line-height: 1.45; overflow-wrap: anywhere; }
#tooltip b { font-size: .95rem; } #tooltip .note { font-size: .8rem; }
"""


def timeline_section(run: Run, words: Mapping[str, str], predicted: Mapping[str, int] | None = None) -> str:
    """The key, the picture and the script, as HTML.

    Args:
        run: what is drawn.
        words: what to call each category.
        predicted: a lower bound of the peak of each phase by its name, drawn over the picture.
    """
    entries = run.entries
    names = categories(entries)
    positions, sizes = levels(entries, _POINTS, names)
    rows = {category: sizes[category].tolist() for category in _STACKED if category in sizes}
    allocated = [sum(column) for column in zip(*rows.values(), strict=True)]
    at = positions.tolist()
    reserved = [run.reserved_bytes[position] for position in at] if run.reserved_bytes else None
    phases = _phases(run)
    known = {name: size for name, size in (predicted or {}).items() if name in {each[1] for each in phases}}
    most = max([1, *allocated, *(reserved or ()), *known.values()])
    scale = _Scale(max(1, len(entries)), most)
    key = "".join(
        f'<span><i style="background:{CATEGORY_COLOURS[category]}"></i>{escape(words[category])}</span>'
        for category in rows
    )
    if reserved:
        key += "<span>┄ reserved by the allocator</span>"
    if known:
        key += '<span class="bound">━ the formula, at least</span>'
    picture = [*_grid(scale), *_bands(at, rows, scale)]
    if reserved:
        points = " ".join(f"{scale.x(p)},{scale.y(r)}" for p, r in zip(at, reserved, strict=True))
        picture.append(f'<polyline class="reserved" points="{points}"/>')
    picture += [*_bounds(phases, known, scale), *_phase_names(run, scale)]
    picture.append('<polygon id="block" points=""/>')
    picture.append(f'<line id="moment" x1="0" x2="0" y1="0" y2="{_HEIGHT}" visibility="hidden"/>')
    data = {
        "events": scale.events,
        "most": most,
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "positions": at,
        "allocated": allocated,
        "reserved": reserved,
        "predicted": known,
        "phases": phases or [[len(entries), "the recording", "the recording"]],
        "categories": [words[category] for category in CATEGORIES],
        "told": ["category", *(["module"] if has_modules(entries) else []), "line"],
        "shown": _PARTS_SHOWN,
        **_blocks(entries, names, positions),
    }
    script = files("profiler.views.pages").joinpath("timeline.js").read_text(encoding="utf-8")
    return (
        f'<p class="key">{key}</p><svg id="timeline" viewBox="0 0 {_WIDTH} {_HEIGHT + _BELOW}" role="img" '
        f'aria-label="Allocated bytes by owner over the run">{"".join(picture)}</svg>'
        '<div id="tooltip" role="tooltip" hidden></div>'
        '<div id="alive"><p class="note">A click on the picture lists what is alive there.</p></div>'
        f"<script>const data = {_embedded(data)};\n{script}</script>"
    )


class _Scale:
    """From events and bytes to the drawing's units."""

    def __init__(self, events: int, most_bytes: int) -> None:
        self.events, self.most_bytes = events, most_bytes

    def x(self, position: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT) * position / self.events, 1)

    def y(self, size_bytes: float) -> float:
        return round(_HEIGHT * (1 - size_bytes / self.most_bytes), 1)


def _grid(scale: _Scale) -> list[str]:
    """Lines at round sizes, with the sizes beside them."""
    parts = []
    step = 1 << max(0, (scale.most_bytes // _TICKS).bit_length() - 1)
    if scale.most_bytes // step > 2 * _TICKS - 2:
        step *= 2
    for size_bytes in range(0, scale.most_bytes + 1, step):
        y = scale.y(size_bytes)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y}" y2="{y}"/>')
        label = format_bytes(size_bytes).replace(".00", "") if size_bytes else "0"
        parts.append(f'<text x="{_LEFT - 6}" y="{max(9, y + 4)}" text-anchor="end">{label}</text>')
    return parts


def _bands(positions: Sequence[int], rows: Mapping[str, Sequence[int]], scale: _Scale) -> list[str]:
    parts = []
    below = [0] * len(positions)
    for category, row in rows.items():
        above = [low + size for low, size in zip(below, row, strict=True)]
        top = [f"{scale.x(p)},{scale.y(size)}" for p, size in zip(positions, above, strict=True)]
        bottom = [f"{scale.x(p)},{scale.y(size)}" for p, size in zip(positions, below, strict=True)]
        outline = " ".join([*top, *reversed(bottom)])
        parts.append(f'<polygon fill="{CATEGORY_COLOURS[category]}" points="{outline}"/>')
        below = above
    return parts


def _phases(run: Run) -> list[list[Any]]:
    """The end of each phase, how it is called with its step, and without."""
    return [
        [index, str(entry.phase), entry.phase.name.replace("_", " ")]
        for index, entry in enumerate(run.entries)
        if isinstance(entry, Mark)
    ]


def _bounds(phases: Sequence[Sequence[Any]], known: Mapping[str, int], scale: _Scale) -> list[str]:
    """A line over each phase at the least that its peak is said to take."""
    parts, start = [], 0
    for end, name, _ in phases:
        if name in known:
            y = scale.y(known[name])
            parts.append(f'<line class="bound" x1="{scale.x(start)}" x2="{scale.x(end)}" y1="{y}" y2="{y}"/>')
        start = end
    return parts


def _phase_names(run: Run, scale: _Scale) -> list[str]:
    parts = []
    start = 0
    for position, entry in enumerate(run.entries):
        if not isinstance(entry, Mark):
            continue
        left, right = scale.x(start), scale.x(position)
        parts.append(f'<line class="phase" x1="{right}" x2="{right}" y1="0" y2="{_HEIGHT}"/>')
        if right - left > _NARROWEST:
            middle = round((left + right) / 2, 1)
            step = f"step {entry.phase.step}" if entry.phase.step else ""
            if entry.phase.micro_batch > 1:
                step += f", micro-batch {entry.phase.micro_batch}"
            for row, text in enumerate((entry.phase.name.replace("_", " "), step)):
                y = _HEIGHT + 14 + 13 * row
                parts.append(f'<text x="{middle}" y="{y}" text-anchor="middle">{escape(text)}</text>')
        start = position
    return parts


def _blocks(entries: Entries, names: Mapping[int, str], positions: np.ndarray) -> dict[str, Any]:
    """The blocks that are alive at a drawn position, in columns, in the order in which they are stacked.

    `place` is an index into `places`: operation, module, line, and the module with layers together.
    """
    import numpy as np

    born, died = lifetimes(entries)
    first, last = np.searchsorted(positions, born), np.searchsorted(positions, died)
    at = np.flatnonzero(first < last)
    owners = np.fromiter((_STACKED.index(names[index]) for index in born[at].tolist()), np.int64, len(at))
    at = at[np.lexsort((born[at], owners))]
    outer = containers(entries)
    places: dict[tuple[str, str, str, str], int] = {}
    columns: dict[str, list[int]] = {
        "born": born[at].tolist(),
        "died": died[at].tolist(),
        "first": first[at].tolist(),
        "last": last[at].tolist(),
        **{name: [] for name in ("size", "rounding", "category", "place")},
    }
    for index in columns["born"]:
        block = entries[index]
        assert isinstance(block, Allocation)
        module, line = block.where or ("", "")
        where = (block.op, module, line, layers_together(module, outer) if module else "")
        columns["size"].append(block.requested_bytes)
        columns["rounding"].append(block.size_bytes - block.requested_bytes)
        columns["category"].append(CATEGORIES.index(names[index]))
        columns["place"].append(places.setdefault(where, len(places)))
    return {"blocks": columns, "places": list(places)}


def _embedded(value: Any) -> str:
    """JSON that cannot end the script it is in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
