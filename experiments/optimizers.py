"""Ten optimizers: what each keeps, what its step needs, and when that decides the peak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.workload import OPTIMIZERS, Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "What does each optimizer keep and need, and why does swapping it sometimes save nothing?"

# GPT-2's shape, batch and length: few tokens for the parameters there are, then many.
_TINY = (("gpt2-tiny", 1, 16, 0), ("gpt2-tiny", 8, 128, 0))
_REAL = (("gpt2", 1, 64, 6), ("gpt2", 2, 256, 6))
_IMPLEMENTATIONS = ("foreach", "fused")
_COMPARED = ("sgd", "momentum", "adam", "adafactor", "adamw8bit")


def workloads(size: str) -> list[Workload]:
    """Every optimizer with few tokens, Adam also in its other implementations; some with many tokens.

    In full size a GPT-2 of 6 layers: the embedding, 38 of its 82 million parameters, stays in 32 bits.
    """
    few, many = _REAL if size == "full" else _TINY
    chosen = [_workload(few, optimizer) for optimizer in OPTIMIZERS]
    chosen += [_workload(few, "adam", implementation) for implementation in _IMPLEMENTATIONS]
    return chosen + [_workload(many, optimizer) for optimizer in _COMPARED]


def _workload(shape: tuple[str, int, int, int], optimizer: str, implementation: str = "default") -> Workload:
    model, batch, length, layers = shape
    return Workload(model, batch, length, optimizer, optimizer_implementation=implementation, layers=layers)


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """Bytes a parameter, and the peak of the backward pass beside that of the step."""
    from profiler.views.figures.optimizers import peak_phases, state_bars

    tokens = records["batch"] * records["length"]
    return {
        "states": state_bars(records[tokens == tokens.min()]),
        "peak_phase": peak_phases(
            records[records["optimizer"].isin(_COMPARED) & (records["optimizer_implementation"] == "default")]
        ),
    }
