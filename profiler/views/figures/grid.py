"""A grid's answers as maps: what each cell reserves, and where it stops to fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from profiler.units import GIB
from profiler.views.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOES_NOT_FIT, _FAILED = "does not fit", "failed"
_MOST_PANELS = 24
_MOST_COLUMNS = 6
_MOST_WORDS = 400  # cells in a panel that have their number written in
_TOO_MUCH = "#f0a58a"
_NO_ANSWER = "#d9d9d9"

Row = Mapping[str, Any]
Axis = tuple[str, Sequence[Any]]


def grid_map(rows: Sequence[Row], axes: Mapping[str, Sequence[Any]], title: str) -> Figure:
    """One map a combination of all but two of the axes: colour and number say how many GiB are reserved.

    Args:
        rows: of profiler.advice.sweep.
        axes: of the grid: those with the most values become the sides of each map, numbers first.
        title: of what.
    """
    import matplotlib.pyplot as plt

    across, down, others = _sides(axes)
    combinations = list(product(*(values for _, values in others)))
    shown = combinations[:_MOST_PANELS]
    columns = min(_MOST_COLUMNS, len(shown), max(1, len(others[-1][1]) if others else 1))
    lines = -(-len(shown) // columns)
    width = 1.6 + 0.62 * len(across[1])
    height = 1.6 + 0.42 * len(down[1])
    size = (max(9.0, columns * width), 1.6 + lines * height)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False)
    by_place = {tuple(_value(row, name) for name in axes): row for row in rows}
    for panel, combination in zip(grid.flat, shown, strict=False):
        fixed = dict(zip((name for name, _ in others), combination, strict=True))
        _draw(panel, by_place, tuple(axes), (across, down), fixed)
    for panel in list(grid.flat)[len(shown) :]:
        panel.set_axis_off()
    style.headline(figure, _finding(rows), _conditions(title, len(combinations)))
    return figure


def _sides(axes: Mapping[str, Sequence[Any]]) -> tuple[Axis, Axis, list[Axis]]:
    """The two axes of a map, and the rest in the grid's order."""

    def rank(item: Axis) -> tuple[bool, int]:
        return all(isinstance(value, int | float) for value in item[1]), len(item[1])

    chosen = sorted(axes.items(), key=rank, reverse=True)[:2]
    while len(chosen) < 2:
        chosen.append(("", [None]))
    names = {name for name, _ in chosen}
    return chosen[0], chosen[1], [item for item in axes.items() if item[0] not in names]


def _draw(
    panel: Axes,
    by_place: Mapping[tuple[Any, ...], Row],
    names: tuple[str, ...],
    sides: tuple[Axis, Axis],
    fixed: Mapping[str, Any],
) -> None:
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    (across, xs), (down, ys) = sides
    colours = mpl.colormaps["Blues"]
    small = len(xs) * len(ys) > _MOST_WORDS
    for (x, at_x), (y, at_y) in product(enumerate(xs), enumerate(ys)):
        place = {**fixed, across: at_x, down: at_y}
        row = by_place.get(tuple(place[name] for name in names))
        colour, words, ink = _look(row, colours)
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
        if words and not small:
            panel.text(x, y, words, ha="center", va="center", fontsize=8, color=ink)
    panel.set_xlim(-0.5, len(xs) - 0.5)
    panel.set_ylim(-0.5, len(ys) - 0.5)
    panel.grid(visible=False)
    panel.set_xticks(range(len(xs)), [_short(value) for value in xs], fontsize=9)
    panel.set_yticks(range(len(ys)), [_short(value) for value in ys], fontsize=9)
    panel.set_xlabel(_words(across), fontsize=10)
    panel.set_ylabel(_words(down), fontsize=10)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    title = ", ".join(_named(name, value) for name, value in fixed.items())
    panel.set_title(title, fontsize=9, fontweight="normal", pad=4)


def _look(row: Row | None, colours: Any) -> tuple[Any, str, str]:
    """A cell's colour, its number and that one's colour."""
    if row is None:
        return "white", "", style.INK
    if row["outcome"] == _FAILED:
        return _NO_ANSWER, "×", style.INK
    reserved = row["peak_reserved_bytes"]
    words = f"{reserved / GIB:.0f}" if reserved >= 9.95 * GIB else f"{reserved / GIB:.1f}"
    if row["outcome"] == _DOES_NOT_FIT:
        return _TOO_MUCH, words, style.INK
    share = min(1.0, (reserved + row["context_bytes"]) / row["gpu_memory_bytes"])
    return colours(0.08 + 0.82 * share), words, "white" if share > 0.6 else style.INK


def _value(row: Row, name: str) -> Any:
    table, _, setting = name.partition(".")
    return json.loads(row[table])[setting] if setting else row[name]


def _finding(rows: Sequence[Row]) -> str:
    answers = [row for row in rows if row["outcome"] != _FAILED]
    fit = sum(row["outcome"] != _DOES_NOT_FIT for row in answers)
    return f"{fit:,} of {len(answers):,} fit"


def _conditions(title: str, panels: int) -> str:
    key = "GiB reserved at the peak; the darker, the fuller the card; red: does not fit; grey: cannot run"
    more = f"; {_MOST_PANELS} of {panels:,} maps" if panels > _MOST_PANELS else ""
    return f"{title}: {key}{more}"


def _named(name: str, value: Any) -> str:
    if isinstance(value, str) and name in ("gpu", "model", "optimizer", "precision"):
        return value
    return f"{_words(name)} {_short(value)}"


def _words(name: str) -> str:
    return name.removeprefix("settings.").replace("_", " ")


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, str):
        return value or "default"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
