"""A phase: a named stretch of a run. The names, and the phases that a workload goes through."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.workload import Workload

MODEL_LOADED = "model_loaded"
FORWARD = "forward"
BACKWARD = "backward"
OPTIMIZER_STEP = "optimizer_step"
ZERO_GRAD = "zero_grad"
EVALUATION = "evaluation"  # forwards without gradients, of a loop of the user's own


@dataclass(frozen=True)
class Phase:
    """A named stretch of a run. `step` is 0 before the first step; `micro_batch` counts from 1, 0 if none."""

    step: int
    name: str
    micro_batch: int = 0

    def __str__(self) -> str:
        words = self.name if self.step == 0 else f"step {self.step} {self.name}"
        return f"{words} (micro-batch {self.micro_batch})" if self.micro_batch > 1 else words


def phases(workload: Workload) -> list[Phase]:
    """The phases that `train` goes through, in order."""
    order = [Phase(0, MODEL_LOADED)]
    for step in range(1, workload.steps + 1):
        for micro_batch in range(1, workload.micro_batches + 1):
            order += [Phase(step, FORWARD, micro_batch), Phase(step, BACKWARD, micro_batch)]
        order += [Phase(step, OPTIMIZER_STEP), Phase(step, ZERO_GRAD)]
    return order
