"""Ten optimizers: what each keeps, what its step needs, and when that decides the peak."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any

from profiler.records.comparison import compare
from profiler.views.figures import style
from profiler.views.figures.panels import View, of_the_first, views
from profiler.views.figures.phases import CATEGORY_COLOURS
from profiler.workload import OPTIMIZERS_RUN, Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "What does each optimizer keep and need, and why does swapping it sometimes save nothing?"

# GPT-2's shape, batch and length: few tokens for the parameters there are, then many.
_TINY = (("gpt2-tiny", 1, 16, 0), ("gpt2-tiny", 8, 128, 0))
_REAL = (("gpt2", 1, 64, 6), ("gpt2", 2, 256, 6))
_IMPLEMENTATIONS = ("foreach", "fused")
_COMPARED = ("sgd", "momentum", "adam", "adafactor", "adamw8bit")


def workloads(size: str, device: str) -> list[Workload]:
    """Every optimizer with few tokens, Adam also in its other implementations; some with many tokens.

    In full size a GPT-2 of 6 layers: the embedding, 38 of its 82 million parameters, stays in 32 bits.
    """
    few, many = _REAL if size == "full" else _TINY
    chosen = [_workload(few, optimizer) for optimizer in OPTIMIZERS_RUN]
    chosen += [_workload(few, "adam", implementation) for implementation in _IMPLEMENTATIONS]
    return chosen + [_workload(many, optimizer) for optimizer in _COMPARED]


def _workload(shape: tuple[str, int, int, int], optimizer: str, implementation: str = "default") -> Workload:
    model, batch, length, layers = shape
    return Workload(model, batch, length, optimizer, optimizer_implementation=implementation, layers=layers)


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """Bytes a parameter, and the peak of the backward pass beside that of the step."""
    tokens = records["batch"] * records["length"]
    return {
        "states": state_bars(records[tokens == tokens.min()]),
        "peak_phase": peak_phases(
            records[records["optimizer"].isin(_COMPARED) & (records["optimizer_implementation"] == "default")]
        ),
    }


_TICK: dict[str, Any] = {"linestyle": "none", "marker": "|", "markeredgewidth": 2.4, "color": style.INK}


def state_bars(records: pd.DataFrame) -> Figure:
    """Bytes a parameter that each optimizer keeps, and that its step needs on top, and what the formula says.

    Args:
        records: one run an optimizer, of one model; a panel a device. Where a device has no run of an
            optimizer, its row stays empty.
    """
    import matplotlib.pyplot as plt
    import pandas as pd

    shown = views(records)
    tables = [(_last_steps(view.truth), _last_steps(view.by("formula"))) for view in shown]
    states = pd.concat([truth["states"] for truth, _ in tables], axis=1).max(axis=1)  # of any device
    order = states.sort_values(ascending=False, kind="stable").index
    figure, panels = plt.subplots(
        1, len(shown), figsize=(3 + 6.2 * len(shown), 2.6 + 0.44 * len(order)), sharey=True, squeeze=False
    )
    for axes, view, (truth, formula) in zip(panels.flat, shown, tables, strict=True):
        _bars(axes, truth.reindex(order), formula.reindex(order))
        axes.set_title(view.words, fontsize=13)
    panels.flat[0].set_yticks(range(len(order)), order)
    panels.flat[0].invert_yaxis()
    style.headline(
        figure,
        _finding(shown[0], tables[0][0]),
        f"{_model(records.iloc[0])}; the number is what the states take",
    )
    style.shared_legend(figure, panels.flat)
    return figure


def _bars(axes: Axes, truth: pd.DataFrame, formula: pd.DataFrame) -> None:
    places = list(range(len(truth)))
    axes.barh(places, truth["states"], 0.62, color=style.GREEN, label="states, kept")
    axes.barh(
        places,
        truth["temporaries"],
        0.62,
        left=truth["states"],
        color=style.YELLOW,
        label="temporaries, during the step",
    )
    axes.plot(formula["states"], places, markersize=20, **_TICK)
    axes.plot(formula["states"] + formula["temporaries"], places, markersize=20, **_TICK)
    axes.plot([], [], markersize=14, label="formula", **_TICK)
    for place, (states, extra) in enumerate(zip(truth["states"], truth["temporaries"], strict=True)):
        said = "not run" if isnan(states) else f"{states:.2f}"
        axes.text(max(0, states + extra) + 0.25, place, said, va="center", fontsize=11)
    axes.set_xlabel("bytes a parameter")
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.12 * float((truth["states"] + truth["temporaries"]).max()))


def peak_phases(records: pd.DataFrame) -> Figure:
    """The peak of the backward pass beside that of the step: panels by device and tokens.

    Args:
        records: runs of one model in two sizes of the batch.
    """
    import matplotlib.pyplot as plt

    shown, sizes = views(records), sorted(set(records["batch"] * records["length"]))
    figure, grid = plt.subplots(len(shown), len(sizes), figsize=(13, 1.8 + 4.4 * len(shown)), squeeze=False)
    savings = []
    for panels, view in zip(grid, shown, strict=True):
        for axes, size in zip(panels, sizes, strict=True):
            saved, phase = _draw_phases(axes, view, size)
            savings.append(f"{saved:.0f} % at {size:,} tokens")
            axes.set_title(f"{view.words}, {size:,} tokens:\nAdam's peak is in the {phase}", fontsize=13)
    finding = (
        f"Swapping Adam for 8-bit AdamW saves {' and '.join(savings[: len(sizes)])}{of_the_first(shown)}"
    )
    style.headline(figure, finding, _model(records.iloc[0], tokens=False))
    style.shared_legend(figure, grid.flat)
    return figure


def _draw_phases(axes: Axes, view: View, tokens: int) -> tuple[float, str]:
    """Draw two bars an optimizer.

    Returns:
        The percentage that swapping Adam for 8-bit AdamW takes off the peak, and the phase of Adam's peak.
    """
    rows = view.records[view.records["batch"] * view.records["length"] == tokens]
    names = list(dict.fromkeys(_names(rows[rows["source"] == view.source])))
    factor, unit = style.byte_unit(float(rows["peak_allocated_bytes"].max()))
    peaks: dict[str, dict[str, float]] = {}
    looks: tuple[tuple[str, float, str], ...] = (
        ("backward", -0.2, style.ORANGE),
        ("optimizer_step", 0.2, style.GREEN),
    )
    for phase, offset, colour in looks:
        at: list[Any] = [place + offset for place in range(len(names))]
        truth, formula = (
            _highest(rows[(rows["source"] == source) & (rows["phase"] == phase)], names)
            for source in (view.source, "formula")
        )
        hidden = truth[["peak_workspaces_bytes", "peak_rounding_bytes"]].fillna(0).sum(axis=1) / factor
        values = truth["peak_allocated_bytes"] / factor
        axes.bar(at, values - hidden, 0.38, color=colour, label=f"peak of the {phase.replace('_', ' ')}")
        if hidden.any():
            look: dict[str, Any] = {
                "color": CATEGORY_COLOURS["workspaces"],
                "alpha": 0.35,
                "label": "of it workspaces, rounding",
            }
            axes.bar(at, hidden, 0.38, bottom=values - hidden, **look)
        for name in names:
            peaks.setdefault(name, {})[phase] = float(values[name])
        levels = formula["peak_allocated_bytes"] / factor
        starts, ends = [x - 0.19 for x in at], [x + 0.19 for x in at]
        axes.hlines(levels, starts, ends, color=style.INK, linewidth=2.2, label="formula")
    axes.set_xticks(range(len(names)), [name.replace("adamw8bit", "adamw\n8bit") for name in names])
    axes.set_ylabel(f"peak allocated ({unit})")
    axes.grid(axis="x", visible=False)
    before, after = (max(peaks[name].values()) for name in ("adam", "adamw8bit"))
    phase = max(peaks["adam"], key=peaks["adam"].__getitem__)
    return 100 * (1 - after / before), {"backward": "backward pass", "optimizer_step": "step"}[phase]


def _highest(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The row with the highest peak, by optimizer; bytes as floats."""
    order = rows.assign(name=_names(rows)).sort_values("peak_allocated_bytes", ascending=False, kind="stable")
    columns = ["peak_allocated_bytes", "peak_workspaces_bytes", "peak_rounding_bytes"]
    return order.drop_duplicates("name").set_index("name").loc[names, columns].astype(float)


def _names(rows: pd.DataFrame) -> pd.Series:
    suffix = rows["optimizer_implementation"].map(lambda name: "" if name == "default" else f" ({name})")
    return rows["optimizer"] + suffix


def _last_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """By optimizer: bytes a parameter of states, and of what the last step's peak adds to its end.

    Args:
        rows: of one source.
    """
    import pandas as pd

    last = rows[(rows["phase"] == "optimizer_step") & (rows["step"] == rows["step"].max())]
    elements = last["parameters_bytes"].astype(float) / 4
    extra = (last["peak_allocated_bytes"] - last["allocated_bytes"]).astype(float)
    states = last["optimizer_states_bytes"].fillna(0).astype(float)
    table = {"states": states / elements, "temporaries": extra / elements}
    return pd.DataFrame({name: list(values) for name, values in table.items()}, index=list(_names(last)))


def _finding(view: View, truth: pd.DataFrame) -> str:
    compared = compare(view.records, truth=view.source)
    exact = not compared["optimizer_states_difference_bytes"].any()
    tail = "predicted to the byte" if exact else "not all predicted"
    adam, eight = truth["states"]["adam"], truth["states"]["adamw8bit"]
    return f"Adam keeps {adam:.2f} B a parameter, in 8 bits {eight:.2f} B (embeddings stay in 32): {tail}"


def _model(row: pd.Series, tokens: bool = True) -> str:
    return style.model_words(row) + (f", {row['batch']} × {row['length']} tokens" if tokens else "")
