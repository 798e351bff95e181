"""Where the bytes are over the course of a run: categories stacked over the allocation events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.trace.events import Mark
from profiler.trace.ledger import CATEGORIES
from profiler.trace.moments import levels
from profiler.units import format_bytes
from profiler.views.figures import style
from profiler.views.figures.phases import CATEGORY_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from profiler.trace.run import Run

_NEAR = 0.6  # of the capacity: from here on the line is drawn
_NARROWEST = 0.055  # of the width: a shorter phase bears no name


def timeline(run: Run) -> Figure:
    """Allocated bytes by category, what was reserved where that is known, the phases and the peak."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(13, 6.6))
    end = len(run.entries)
    positions, by_category = levels(run.entries)
    reserved = np.array(run.reserved_bytes)[positions] if run.reserved_bytes else None
    top = run.peak().allocated_bytes if reserved is None else int(reserved.max())
    factor, unit = style.byte_unit(top)
    drawn = [c for c in CATEGORIES if c in by_category and by_category[c].max() >= 0.002 * top]
    axes.stackplot(
        positions,
        [by_category[c] / factor for c in drawn],
        colors=[CATEGORY_COLOURS[c] for c in drawn],
        labels=[c.replace("_", " ") for c in drawn],
        step="post",
        linewidth=0,
    )
    if reserved is not None:
        axes.step(
            positions,
            reserved / factor,
            where="post",
            color=style.INK,
            linewidth=1.4,
            label="reserved by the allocator",
        )
    capacity = run.device.gpu.memory_bytes if run.device.gpu is not None else None
    if capacity is not None and top >= _NEAR * capacity:
        axes.axhline(capacity / factor, color=style.RED, linewidth=1.6, linestyle=(0, (5, 2)))
        axes.text(
            0.005,
            capacity / factor,
            f"capacity {format_bytes(capacity)}",
            transform=axes.get_yaxis_transform(),
            color=style.RED,
            va="bottom",
        )
        top = max(top, capacity)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.14 * top / factor)
    _mark_phases(axes, run)
    _mark_peak(axes, run, factor)
    axes.set_title(_finding(run))
    style.subtitle(axes, f"{run.name} on {run.device}; {run.allocations:,} allocations")
    axes.set_xlabel("allocations and frees, in order")
    axes.set_ylabel(f"allocated ({unit})")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=5)
    return figure


def _finding(run: Run) -> str:
    failed = run.out_of_memory
    if failed is not None:
        asked = f": no room for {format_bytes(failed.request.requested_bytes)}" if failed.request else ""
        return f"Out of memory in {failed.phase}{asked}"
    peak = run.peak()
    return f"The peak is {format_bytes(peak.allocated_bytes)}, in {peak.phase}"


def _mark_phases(axes: Axes, run: Run) -> None:
    """A line where each phase ends, and its name above where it is wide enough."""
    start, width = 0, axes.get_xlim()[1]
    for position, entry in enumerate(run.entries):
        if not isinstance(entry, Mark):
            continue
        axes.axvline(position, color=style.MUTED, linewidth=0.7, alpha=0.5)
        if position - start >= _NARROWEST * width:
            step = f"\nstep {entry.phase.step}" if entry.phase.step else ""
            axes.text(
                (start + position) / 2,
                0.99,
                entry.phase.name.replace("_", "\n") + step,
                transform=axes.get_xaxis_transform(),
                color=style.MUTED,
                fontsize=10,
                ha="center",
                va="top",
            )
        start = position


def _mark_peak(axes: Axes, run: Run, factor: float) -> None:
    peak = run.peak()
    axes.plot(
        peak.position, peak.allocated_bytes / factor, marker="o", markersize=6, color=style.RED, zorder=6
    )
