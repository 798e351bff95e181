"""What grew between two runs, as bars to the right (more) and to the left (less)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.trace.ledger import CATEGORIES
from profiler.units import format_bytes
from profiler.views.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from profiler.trace.difference import Change, Difference

_BARS = 10  # a panel


def draw(difference: Difference, name: str, path: Path) -> None:
    """Write the picture to `path`, in the format that its ending says (.png, .svg, .pdf).

    Raises ProfilerError for an ending that matplotlib does not know, or a folder that cannot be written.
    """
    import matplotlib.pyplot as plt

    from profiler.errors import ProfilerError, first_line
    from profiler.files import write_atomically

    style.use_style()
    shown = (("category", difference.categories), ("module", difference.modules), ("line", difference.lines))
    panels = [(what, _largest(parts)) for what, parts in shown]
    panels = [(what, parts) for what, parts in panels if parts]
    heights = [len(parts) + 1.2 for _, parts in panels] or [1.0]
    figure, grid = plt.subplots(
        len(heights),
        1,
        figsize=(11, 1.4 + 0.36 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        sharex=True,
    )
    changes = [abs(part.difference_bytes) for _, parts in panels for part in parts]
    factor, unit = style.byte_unit(max(changes, default=0))
    limit = 1.5 * max(changes, default=1) / factor
    for (what, parts), axes in zip(panels, grid[:, 0], strict=False):
        _bars(axes, what, parts, factor)
        axes.set_xlim(-limit if any(p.difference_bytes < 0 for _, ps in panels for p in ps) else 0, limit)
    if not panels:
        grid[0, 0].set_axis_off()
    grid[-1, 0].set_xlabel(unit)
    before, after = difference.before.allocated_bytes, difference.after.allocated_bytes
    sign = "+" if after > before else ""
    finding = f"Peak {format_bytes(before)} → {format_bytes(after)}: {sign}{format_bytes(after - before)}"
    style.headline(figure, finding, name)
    try:
        write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:] or "png"))
    except ValueError as error:
        raise ProfilerError(f"--output {path}: {first_line(error)}") from None
    finally:
        plt.close(figure)


def _largest(parts: Sequence[Change]) -> list[Change]:
    return [part for part in parts if part.difference_bytes][:_BARS]


def _bars(axes: Axes, what: str, parts: Sequence[Change], factor: float) -> None:
    values = [part.difference_bytes / factor for part in parts]
    places = range(len(parts))
    axes.barh(places, values, 0.7, color=[style.RED if value > 0 else style.GREEN for value in values])
    for place, part, value in zip(places, parts, values, strict=True):
        sign = "+" if value > 0 else ""
        text = f" {sign}{format_bytes(part.difference_bytes)} "
        axes.text(value, place, text, ha="left" if value > 0 else "right", va="center", fontsize=10)
    names = [p.name.replace("_", " ") if p.name in CATEGORIES else _short(p.name) for p in parts]
    axes.set_yticks(places, names, fontsize=10)
    axes.invert_yaxis()
    axes.axvline(0, color=style.INK, linewidth=1)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_title(f"by {what}", fontsize=12, pad=6)


def _short(name: str, most: int = 56) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
