"""What every HTML page of this package shares: one file, no network, light or dark as the reader has it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from profiler.units import format_bytes
from profiler.version import __version__

IMAGE_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><title>{title}</title><style>
:root {{ color-scheme: light dark; --ink: #1b1f24; --muted: #656d76; --line: #d5d9de; --page: #fff;
  --card: #f5f6f8; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e8eb; --muted: #9aa3ad; --line: #3a4149;
  --page: #14171a; --card: #1f2429; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2.5rem auto; max-width: 1080px; padding: 0 1.25rem;
  color: var(--ink); background: var(--page); }}
h1 {{ font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .6rem; }} h3 {{ font-size: 1rem; margin: 1.4rem 0 .4rem; }}
p {{ margin: .4rem 0; }} .lead {{ font-size: 1.1rem; }} .note {{ color: var(--muted); font-size: .87rem; }}
a {{ color: inherit; }} .wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .92rem; }}
td, th {{ padding: .22rem 1.1rem .22rem 0; text-align: left; vertical-align: baseline; }}
th {{ border-bottom: 1px solid var(--line); color: var(--muted); font-weight: 600; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
td.bar {{ width: 12rem; }} td.bar i {{ display: block; height: .7rem; background: #0072b2; min-width: 1px; }}
figure {{ margin: 1rem 0; }} figure img {{ max-width: 100%; background: #fff; border-radius: 4px; }}
summary {{ cursor: pointer; color: var(--muted); }}
{style}
</style></head><body>
{body}
<p class="note">Written by profiler {version}.</p>
</body></html>
"""


def page(title: str, body: str, style: str = "") -> str:
    """A whole page; `body` and `style` are HTML and CSS, `title` is text."""
    return _PAGE.format(title=escape(title), body=body, style=style, version=__version__)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of text; the columns `numbers` are set to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="number"' if index in numbers else "" for index in range(len(cells))]
        inside = (f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    return (
        f'<div class="wide"><table>{line(head, "th")}{"".join(line(row, "td") for row in rows)}</table></div>'
    )


def image(data: bytes, suffix: str, alt: str) -> str:
    """A picture, inside the page; `suffix` is that of its file, a key of IMAGE_KINDS."""
    encoded = base64.b64encode(data).decode()
    return f'<figure><img alt="{escape(alt)}" src="data:{IMAGE_KINDS[suffix]};base64,{encoded}"></figure>'


def shares(sizes: Mapping[str, int], total_bytes: int, most: int, colours: Mapping[str, str]) -> str:
    """A table of parts of `total_bytes`, the `most` largest by themselves, each with its share and a bar."""
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    rows = [(name, size, colours.get(name, "")) for name, size in ordered[:most]]
    if ordered[most:]:
        rows.append((f"{len(ordered) - most} more", sum(size for _, size in ordered[most:]), ""))
    lines = []
    widest = max((size for _, size, _ in rows), default=0)
    for name, size, colour in rows:
        percent = 100 * size / total_bytes if total_bytes else 0.0
        fill = f";background:{colour}" if colour else ""
        lines.append(
            f'<tr><td>{escape(name.replace("_", " ") if name in colours else name)}</td>'
            f'<td class="number">{format_bytes(size)}</td><td class="number">{percent:.1f} %</td>'
            f'<td class="bar"><i style="width:{100 * size / max(1, widest):.1f}%{fill}"></i></td></tr>'
        )  # fmt: skip
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'
