"""What each rank needs at its peak: ranks alike are one bar, its categories stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from profiler.views.figures import style
from profiler.views.figures.phases import CATEGORY_COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What torch.distributed holds beside a rank's own (profiler.recording.inside.communication).
_COMMUNICATION_COLOURS = {
    "unsharded_parameters": "#003f66",
    "all_gather_buffers": "#7a4b00",
    "reduce_scatter_buffers": style.RED,
    "ddp_buckets": "#8c2d04",
    "communication_buffers": "#a05a7e",
}
_COLOURS = {**CATEGORY_COLOURS, **_COMMUNICATION_COLOURS}
_MOST_BARS = 32
_FAR = 1.6  # a card that much larger than the fullest rank is said in words, not drawn

Group = Mapping[str, Any]


def rank_bars(groups: Sequence[Group], gpu_name: str, gpu_bytes: int, title: str) -> Figure:
    """A bar a group of ranks alike, the fullest on top.

    Args:
        groups: each with "words" (its ranks), "ranks", "phase", "shares" (bytes by category at the peak),
            "peak_allocated_bytes" and "peak_reserved_bytes"; the fullest first.
        gpu_name, gpu_bytes: of the card of each.
        title: what ran.
    """
    import matplotlib.pyplot as plt

    shown = groups[:_MOST_BARS]
    fullest_bytes = max(group["peak_reserved_bytes"] for group in shown)
    card_is_near = gpu_bytes <= _FAR * fullest_bytes
    factor, unit = style.byte_unit(float(gpu_bytes if card_is_near else fullest_bytes))
    figure, axes = plt.subplots(figsize=(13, 2.6 + 0.55 * len(shown)))
    places = range(len(shown))
    left = [0.0] * len(shown)
    names = {name for group in shown for name in group["shares"]}
    for name in (*(name for name in _COLOURS if name in names), *sorted(names - _COLOURS.keys())):
        widths = [group["shares"].get(name, 0) / factor for group in shown]
        colour = _COLOURS.get(name, style.INK)
        axes.barh(places, widths, 0.66, left=left, color=colour, label=name.replace("_", " "))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    reserved = [group["peak_reserved_bytes"] / factor for group in shown]
    axes.barh(places, reserved, 0.8, color="none", edgecolor=style.INK, linewidth=1.2, label="reserved")
    if card_is_near:
        axes.axvline(gpu_bytes / factor, color=style.RED, linewidth=1.6, linestyle="--", label=gpu_name)
    axes.set_yticks(list(places), [f"rank{'s' * (len(g['ranks']) > 1)} {g['words']}" for g in shown])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"at the peak ({unit})")
    hidden = f"; the first {_MOST_BARS} of {len(groups)} kinds" if len(groups) > _MOST_BARS else ""
    style.headline(figure, _finding(groups, gpu_bytes), f"{title}, each on {gpu_name}{hidden}")
    style.shared_legend(figure, [axes])
    return figure


def _finding(groups: Sequence[Group], gpu_bytes: int) -> str:
    first, last = groups[0], groups[-1]
    ranks = sum(len(group["ranks"]) for group in groups)
    share = f"{100 * first['peak_reserved_bytes'] / gpu_bytes:.0f} % of its card"
    if len(groups) == 1:
        return f"All {ranks} ranks need the same: {share}" if ranks > 1 else f"The rank needs {share}"
    more = 100 * (first["peak_reserved_bytes"] / last["peak_reserved_bytes"] - 1)
    words = f"Rank {first['ranks'][0]} is the fullest: {share}"
    return f"{words}, {more:.0f} % more than the emptiest" if more >= 1 else words
