"""Errors by estimator: one dot a row."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scores import ESTIMATORS, OURS, Judged, score

LEAST = 0.0003  # smaller errors are drawn here: the axis is logarithmic
TOO_LOW, ENOUGH, WRONG = "#c1442e", "#2e6fa7", "#1a1a1a"


def draw(judged: list[Judged], path: Path) -> None:
    ours, xmem = score(judged, OURS), score(judged, "xMem")
    figure, axes = plt.subplots(figsize=(9.5, 5.2), layout="constrained")
    scatter = np.random.default_rng(0)
    for place, name in enumerate(ESTIMATORS):
        errors = np.array([row.errors[name] for row in judged if name in row.errors])
        heights = place + scatter.uniform(-0.25, 0.25, len(errors))
        sizes = np.maximum(np.abs(errors), LEAST)
        for chosen, colour, label in (
            (errors >= 0, ENOUGH, "too high"),
            (errors < 0, TOO_LOW, "too low"),
        ):
            axes.scatter(
                sizes[chosen],
                heights[chosen],
                s=16,
                alpha=0.65,
                color=colour,
                linewidths=0,
                label=label if place == 0 else None,
            )
        wrong = [
            row
            for row in judged
            if name in row.says_out_of_memory and row.says_out_of_memory[name] != row.row.out_of_memory
        ]
        axes.scatter(
            np.full(len(wrong), 3.0),
            place + scatter.uniform(-0.25, 0.25, len(wrong)),
            marker="x",
            s=26,
            color=WRONG,
            label="wrong about running out of memory" if place == 0 else None,
        )
        axes.plot([np.median(np.abs(errors))] * 2, [place - 0.38, place + 0.38], color="black", linewidth=2)
    axes.set_xscale("log")
    axes.set_xlim(LEAST * 0.8, 4.5)
    ticks = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(ESTIMATORS)), ESTIMATORS)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("absolute error, of the measured growth of device memory (black: median)")
    axes.set_title(
        f"Off by {100 * ours.median:.1f} % at the median, where the best other estimator is off by "
        f"{100 * xmem.median:.1f} %",
        loc="left",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)
