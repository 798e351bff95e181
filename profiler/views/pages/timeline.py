"""The interactive timeline of a report: who owns each byte over the run, and the block under the pointer.

The picture is SVG and stands without script. The script knows every block's birth, death, size, category
and place; at the moment under the pointer it stacks the blocks that are alive as the picture does, by
category and then by birth, and so finds the one at the pointer's height.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from profiler.trace.events import Allocation, Free, Mark
from profiler.trace.ledger import CATEGORIES, categories
from profiler.trace.moments import levels
from profiler.trace.run import Run
from profiler.units import format_bytes
from profiler.views.figures.phases import CATEGORY_COLOURS

_WIDTH, _HEIGHT = 1000, 340
_LEFT, _BELOW = 62, 34  # room for the scale and for the names of the phases
_POINTS = 1000
_NARROWEST = 62  # a narrower phase bears no name
_TICKS = 5

STYLE = """
.key span { display: inline-block; margin-right: 1.1rem; white-space: nowrap; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; border-radius: 2px; }
#timeline { width: 100%; height: auto; display: block; cursor: crosshair; touch-action: pan-y; }
#timeline text { font: 11px system-ui, sans-serif; fill: var(--muted); }
#timeline .grid { stroke: var(--line); stroke-width: .7; }
#timeline .phase { stroke: var(--page); stroke-width: 1; opacity: .8; }
#timeline .reserved { fill: none; stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 4 3; }
#block { fill: #000; fill-opacity: .25; stroke: var(--ink); stroke-width: 1; }
#moment { stroke: var(--ink); stroke-width: .8; }
#tooltip { position: fixed; z-index: 1; max-width: 30rem; padding: .5rem .7rem; border-radius: 6px;
  background: var(--page); border: 1px solid var(--line); box-shadow: 0 3px 14px #0003; pointer-events: none;
  font-size: .85rem; line-height: 1.45; overflow-wrap: anywhere; }
#tooltip b { font-size: .95rem; } #tooltip .note { font-size: .8rem; }
"""

_SCRIPT = """
const data = %s;
const svg = document.getElementById("timeline"), tooltip = document.getElementById("tooltip");
const line = document.getElementById("moment"), shape = document.getElementById("block");
const {born, died, size, category, place} = data.blocks, order = [...born.keys()];
order.sort((a, b) => category[a] - category[b] || born[a] - born[b]);
const xOf = position => data.left + position / data.events * (data.width - data.left);
const yOf = bytes => data.height * (1 - bytes / data.most);
const phaseOf = position => (data.phases.find(phase => position <= phase[0]) || data.phases.at(-1))[1];
function bytes(n) {
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) if (n >= 1024) { n /= 1024; unit = next; }
  return (unit === "B" ? n : n.toFixed(2)) + " " + unit;
}
function offset(block, position) {
  let below = 0;
  for (const other of order) {
    if (other === block) return below;
    if (born[other] <= position && position < died[other]) below += size[other];
  }
}
function blockAt(position, height) {
  let below = 0;
  for (const block of order) if (born[block] <= position && position < died[block]) {
    below += size[block];
    if (height < below) return [block, below];
  }
  return [null, below];
}
function outline(block) {
  const top = [], bottom = [];
  for (const position of data.positions) if (born[block] <= position && position < died[block]) {
    const low = offset(block, position), x = xOf(position).toFixed(1);
    bottom.unshift(x + "," + yOf(low).toFixed(1));
    top.push(x + "," + yOf(low + size[block]).toFixed(1));
  }
  return [...top, ...bottom].join(" ");
}
let shown = null;
function say(words, tag) {
  for (const word of words.filter(word => word)) {
    const element = document.createElement(tag);
    element.textContent = word;
    if (tag === "div") element.className = "note";
    tooltip.append(element, tag === "b" ? " " : "");
  }
}
function show(event) {
  const box = svg.getBoundingClientRect(), scale = box.width / data.width;
  const x = (event.clientX - box.left) / scale, y = (event.clientY - box.top) / scale;
  const wanted = (x - data.left) / (data.width - data.left) * data.events;
  let low = 0, high = data.positions.length - 1;
  while (low < high) {
    const middle = low + high >> 1;
    if (data.positions[middle] < wanted) low = middle + 1; else high = middle;
  }
  if (low > 0 && wanted - data.positions[low - 1] < data.positions[low] - wanted) low -= 1;
  const position = data.positions[low], height = (1 - y / data.height) * data.most;
  const [block, requested] = blockAt(position, height);
  const allocated = data.allocated[low];
  tooltip.replaceChildren();
  if (block !== null && height >= 0) {
    const [operation, module, code] = data.places[place[block]];
    say([data.categories[category[block]], bytes(size[block])], "b");
    say([module, code, operation], "span");
    for (const span of tooltip.querySelectorAll("span")) span.style.display = "block";
    const end = died[block] < data.events ? "freed in " + phaseOf(died[block]) : "alive at the end";
    say(["born in " + phaseOf(born[block]) + ", " + end], "div");
  } else if (height >= 0 && height < allocated) {
    say(["rounding", bytes(allocated - requested)], "b");
  } else if (height >= 0 && data.reserved && height < data.reserved[low]) {
    say(["reserved, not allocated", bytes(data.reserved[low] - allocated)], "b");
  }
  const held = data.reserved ? ", " + bytes(data.reserved[low]) + " reserved" : "";
  say([phaseOf(position) + ": " + bytes(allocated) + " allocated" + held], "div");
  for (const end of ["x1", "x2"]) line.setAttribute(end, xOf(position).toFixed(1));
  line.setAttribute("visibility", "visible");
  if (block !== shown) {
    shown = block;
    shape.setAttribute("points", block === null ? "" : outline(block));
  }
  tooltip.hidden = false;
  const left = event.clientX + 16, width = tooltip.offsetWidth;
  tooltip.style.left = Math.max(8, left + width > innerWidth - 8 ? left - width - 32 : left) + "px";
  const top = event.clientY + 16, tall = tooltip.offsetHeight;
  tooltip.style.top = Math.max(8, top + tall > innerHeight - 8 ? top - tall - 32 : top) + "px";
}
svg.addEventListener("pointermove", show);
svg.addEventListener("pointerdown", show);
svg.addEventListener("pointerleave", () => {
  tooltip.hidden = true; shown = null;
  shape.setAttribute("points", ""); line.setAttribute("visibility", "hidden");
});
"""


def timeline_section(run: Run, words: Mapping[str, str]) -> str:
    """The key, the picture and the script, as HTML; `words` is what to call each category."""
    entries = run.entries
    positions, sizes = levels(entries, _POINTS)
    rows = {category: sizes[category].tolist() for category in CATEGORIES if category in sizes}
    allocated = [sum(column) for column in zip(*rows.values(), strict=True)]
    at = positions.tolist()
    reserved = [run.reserved_bytes[position] for position in at] if run.reserved_bytes else None
    most = max([1, *allocated, *(reserved or ())])
    scale = _Scale(max(1, len(entries)), most)
    key = "".join(
        f'<span><i style="background:{CATEGORY_COLOURS[category]}"></i>{escape(words[category])}</span>'
        for category in rows
    )
    if reserved:
        key += "<span>┄ reserved by the allocator</span>"
    picture = [*_grid(scale), *_bands(at, rows, scale)]
    if reserved:
        points = " ".join(f"{scale.x(p)},{scale.y(r)}" for p, r in zip(at, reserved, strict=True))
        picture.append(f'<polyline class="reserved" points="{points}"/>')
    picture += _phases(run, scale)
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
        "phases": [[i, str(e.phase)] for i, e in enumerate(entries) if isinstance(e, Mark)]
        or [[len(entries), "the recording"]],
        "categories": [words[category] for category in CATEGORIES],
        **_blocks(run),
    }
    return (
        f'<p class="key">{key}</p><svg id="timeline" viewBox="0 0 {_WIDTH} {_HEIGHT + _BELOW}" role="img" '
        f'aria-label="Allocated bytes by owner over the run">{"".join(picture)}</svg>'
        f'<div id="tooltip" role="tooltip" hidden></div><script>{_SCRIPT % _embedded(data)}</script>'
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


def _phases(run: Run, scale: _Scale) -> list[str]:
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


def _blocks(run: Run) -> dict[str, Any]:
    """Every block, in columns; `place` is an index into `places`, (operation, module, line)."""
    names = categories(run.entries)
    places: dict[tuple[str, str, str], int] = {}
    columns: dict[str, list[int]] = {name: [] for name in ("born", "died", "size", "category", "place")}
    alive: dict[int, int] = {}
    for index, entry in enumerate(run.entries):
        if isinstance(entry, Allocation):
            where = (entry.op, *(entry.where or ("", "")))
            alive[entry.address] = len(columns["born"])
            for name, value in (
                ("born", index),
                ("died", len(run.entries)),
                ("size", entry.requested_bytes),
                ("category", CATEGORIES.index(names[index])),
                ("place", places.setdefault(where, len(places))),
            ):
                columns[name].append(value)
        elif isinstance(entry, Free) and entry.address in alive:
            columns["died"][alive.pop(entry.address)] = index
    return {"blocks": columns, "places": list(places)}


def _embedded(value: Any) -> str:
    """JSON that cannot end the script it is in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
