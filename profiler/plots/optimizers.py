"""Optimizers: what each keeps for a parameter, and which phase its peak is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.compare import compare
from profiler.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def state_bars(records: pd.DataFrame) -> Figure:
    """Bytes a parameter that each optimizer keeps, and that its step needs on top, measured and by formula.

    Args:
        records: one run an optimizer, of one model, sources measured and formula.
    """
    import matplotlib.pyplot as plt

    measured, formula = _last_steps(records, "measured"), _last_steps(records, "formula")
    order = measured["states"].sort_values(ascending=False, kind="stable").index
    measured, formula = measured.loc[order], formula.loc[order]
    figure, axes = plt.subplots(figsize=(10, 1.6 + 0.46 * len(order)))
    places = list(range(len(order)))
    axes.barh(places, measured["states"], 0.62, color=style.GREEN, label="states, kept")
    axes.barh(
        places,
        measured["temporaries"],
        0.62,
        left=measured["states"],
        color=style.YELLOW,
        label="temporaries, during the step",
    )
    for values in (formula["states"], formula["states"] + formula["temporaries"]):
        axes.plot(
            values, places, linestyle="none", marker="|", markersize=20, markeredgewidth=2.4, color=style.INK
        )
    axes.plot(
        [],
        [],
        linestyle="none",
        marker="|",
        markersize=14,
        markeredgewidth=2.4,
        color=style.INK,
        label="formula",
    )
    for place, (states, temporaries) in enumerate(
        zip(measured["states"], measured["temporaries"], strict=True)
    ):
        axes.text(states + temporaries + 0.25, place, f"{states:.2f}", va="center", fontsize=11)
    axes.set_yticks(places, order)
    axes.invert_yaxis()
    axes.set_xlabel("bytes a parameter (number: states)")
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.08 * float((measured["states"] + measured["temporaries"]).max()))
    axes.set_title(_finding(records, measured), pad=32)
    row = records.iloc[0]
    axes.text(
        0, 1.012, f"{_model(row)}, measured on {row['device']}", transform=axes.transAxes, color=style.MUTED
    )
    axes.legend(loc="lower right")
    return figure


def peak_phases(records: pd.DataFrame) -> Figure:
    """The peak of the backward pass beside that of the step, one panel an amount of tokens.

    Args:
        records: runs of one model in two sizes of the batch, sources measured and formula.
    """
    import matplotlib.pyplot as plt

    tokens = records["batch"] * records["length"]
    sizes = sorted(set(tokens))
    figure, panels = plt.subplots(1, len(sizes), figsize=(12, 6), squeeze=False)
    for axes, size in zip(panels.flat, sizes, strict=True):
        rows = records[tokens == size]
        savings = _draw_phases(axes, rows)
        axes.set_title(f"{size:,} tokens: {savings}", fontsize=14)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(
        "An optimizer's states count where the step is the peak, its swap saves less elsewhere",
        x=0.01,
        ha="left",
        fontsize=15,
        fontweight="bold",
    )
    return figure


def _draw_phases(axes: Axes, rows: pd.DataFrame) -> str:
    """Two bars an optimizer; returns what swapping Adam for 8-bit AdamW does to the peak, in words."""
    names = list(dict.fromkeys(_names(rows[rows["source"] == "measured"])))
    factor, unit = style.byte_unit(float(rows["peak_allocated_bytes"].max()))
    peaks: dict[str, dict[str, float]] = {}
    looks: tuple[tuple[str, float, str], ...] = (
        ("backward", -0.2, style.ORANGE),
        ("optimizer_step", 0.2, style.GREEN),
    )
    for phase, offset, colour in looks:
        for source in ("measured", "formula"):
            chosen = rows[(rows["source"] == source) & (rows["phase"] == phase)]
            heights = chosen["peak_allocated_bytes"].astype(float).groupby(_names(chosen), sort=False).max()
            values = [float(heights[name]) / factor for name in names]
            at: list[Any] = [place + offset for place in range(len(names))]
            if source == "measured":
                axes.bar(at, values, 0.38, color=colour, label=f"peak of the {phase.replace('_', ' ')}")
                for name, value in zip(names, values, strict=True):
                    peaks.setdefault(name, {})[phase] = value
            else:
                starts, ends = [x - 0.19 for x in at], [x + 0.19 for x in at]
                axes.hlines(
                    values,
                    starts,
                    ends,
                    color=style.INK,
                    linewidth=2.2,
                    label="formula" if phase == "backward" else "_",
                )
    axes.set_xticks(range(len(names)), [name.replace("adamw8bit", "adamw\n8bit") for name in names])
    axes.set_ylabel(f"allocated ({unit})")
    axes.grid(axis="x", visible=False)
    before, after = (max(peaks[name].values()) for name in ("adam", "adamw8bit"))
    return f"8 bits save {100 * (1 - after / before):.0f} % of Adam's peak"


def _names(rows: pd.DataFrame) -> pd.Series:
    suffix = rows["optimizer_implementation"].map(lambda name: "" if name == "default" else f" ({name})")
    return rows["optimizer"] + suffix


def _last_steps(records: pd.DataFrame, source: str) -> pd.DataFrame:
    """By optimizer: bytes a parameter of states, and of what the last step's peak adds to its end."""
    import pandas as pd

    last = records[(records["source"] == source) & (records["phase"] == "optimizer_step")]
    last = last[last["step"] == last["step"].max()]
    elements = last["parameters_bytes"].astype(float) / 4
    extra = (last["peak_allocated_bytes"] - last["allocated_bytes"]).astype(float)
    states = last["optimizer_states_bytes"].fillna(0).astype(float)
    table = {"states": states / elements, "temporaries": extra / elements}
    return pd.DataFrame({name: list(values) for name, values in table.items()}, index=list(_names(last)))


def _finding(records: pd.DataFrame, measured: pd.DataFrame) -> str:
    compared = compare(records)
    exact = not compared["optimizer_states_difference_bytes"].any()
    tail = "predicted to the byte" if exact else "not all predicted"
    adam, eight = measured["states"]["adam"], measured["states"]["adamw8bit"]
    return f"Adam keeps {adam:.2f} B a parameter, in 8 bits {eight:.2f} B\n(embeddings stay in 32): {tail}"


def _model(row: pd.Series) -> str:
    depth = f" of {row['layers']} layers" if row["layers"] else ""
    return f"{row['model']}{depth}, {row['batch']} × {row['length']} tokens"
