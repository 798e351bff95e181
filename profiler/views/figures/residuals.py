"""What a predictor leaves unexplained, in percent of the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.records.comparison import compare
from profiler.views.figures import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_ORDER = ["model_loaded", "forward", "backward", "optimizer_step", "zero_grad"]


def residuals(records: pd.DataFrame, source: str = "formula") -> Figure:
    """Predicted minus measured for each phase, levels and peaks, one row a model.

    Args:
        records: rows of several runs, with the sources measured and `source`.
        source: the predictor.
    """
    import matplotlib.pyplot as plt

    compared = compare(records, source)
    models = list(dict.fromkeys(compared["model"]))[::-1]
    figure, panels = plt.subplots(
        1, 2, figsize=(14, 1.9 + 0.5 * len(models)), sharey=True, gridspec_kw={"width_ratios": [1, 2]}
    )
    for axes, prefix, name in ((panels[0], "", "level at the end"), (panels[1], "peak_", "peak")):
        column = f"{prefix}difference_percent"
        for offset, phase in zip((0.3, 0.15, 0.0, -0.15, -0.3), _ORDER, strict=True):
            points = compared[compared["phase"] == phase]
            rows = [models.index(model) + offset for model in points["model"]]
            axes.scatter(points[column], rows, s=34, color=_COLOURS[phase], label=phase.replace("_", " "))
        axes.axvline(0, color=style.INK, linewidth=1)
        worst = compared[column].abs().max()
        axes.set_title(
            f"{name}: at most {worst:.2f} %" if worst else f"{name}: 0 bytes everywhere", fontsize=13
        )
        axes.set_xlabel(f"{source} − measured (% of the measured)")
        if worst < 1:
            axes.set_xlim(-1, 1)
            axes.set_xticks([-1, 0, 1])
    panels[0].set_yticks(range(len(models)), models)
    panels[0].set_ylim(-0.6, len(models) - 0.4)
    exact = (compared["difference_bytes"] == 0).mean()
    style.headline(
        figure,
        f"{100 * exact:.0f} % of the levels leave no residual; a peak adds what lives only inside its phase",
    )
    style.shared_legend(figure, panels)
    return figure


_COLOURS = dict(zip(_ORDER, (style.INK, style.BLUE, style.ORANGE, style.GREEN, style.PINK), strict=True))
