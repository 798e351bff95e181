"""The plain training step, SGD, momentum and Adam, over six kinds of model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.reference.suite import TINY
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "Where does the memory of a plain training step go, and does the textbook formula say so?"

# Model, batch, length.
_REAL = [
    ("mlp", 64, 0),
    ("resnet50", 8, 224),
    ("vit-b16", 4, 224),
    ("gpt2", 4, 256),
    ("bert-large", 2, 128),
]
_OPTIMIZERS = ("sgd", "momentum", "adam")
_HEROES = ("gpt2, batch 4 × 256, adam", "gpt2-tiny, batch 2 × 64, adam")


def workloads(size: str, device: str) -> list[Workload]:
    """Every tiny model with every optimizer, Adam with three seeds; in full also real models."""
    tiny = [Workload(*shape, optimizer=optimizer) for shape in TINY for optimizer in _OPTIMIZERS]
    tiny += [Workload(*shape, seed=seed) for shape in TINY for seed in (1, 2)]
    if size == "small":
        return tiny
    others = [Workload("gpt2", 4, 256, optimizer=optimizer) for optimizer in ("sgd", "momentum")]
    return tiny + [Workload(*shape) for shape in _REAL] + others


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """Phases of one run and of one run a model, measured against predicted, and what is left over."""
    from profiler.views.figures.panels import views
    from profiler.views.figures.phases import phase_bars, phase_grid
    from profiler.views.figures.residuals import residuals
    from profiler.views.figures.scatter import measured_against_predicted

    adam = records[(records["optimizer"] == "adam") & (records["seed"] == 0)]
    hero = next(name for name in _HEROES if (records["workload"] == name).any())
    return {
        "phases": phase_bars(adam[adam["workload"] == hero]),
        "phases_by_model": phase_grid(views(adam[adam["workload"] != hero])[0]),
        "measured_vs_predicted": measured_against_predicted(records),
        "residuals": residuals(records),
    }
