"""The training step: one code path for every device, cut into named phases."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from profiler.models import build_model, make_batch

if TYPE_CHECKING:
    import torch

    from profiler.models import Batch
    from profiler.workload import Workload

MODEL_LOADED = "model_loaded"
FORWARD = "forward"
BACKWARD = "backward"
OPTIMIZER_STEP = "optimizer_step"
ZERO_GRAD = "zero_grad"


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


@dataclass
class TrainingState:
    """What the training loop holds; nobody else keeps a reference, or tensors would live too long."""

    model: torch.nn.Module | None = None
    optimizer: torch.optim.Optimizer | None = None
    batch: Batch | None = None
    loss: torch.Tensor | None = None


class Recorder(Protocol):
    """Whoever wants to know what memory does during a phase."""

    def phase(self, phase: Phase, state: TrainingState) -> AbstractContextManager[None]:
        """Entered before the phase's first allocation, left after its last."""


def train(workload: Workload, device: torch.device, recorder: Recorder, initialize: bool = True) -> None:
    """Run the workload's steps on `device`, telling `recorder` where each phase begins and ends.

    With `initialize=False` the weights keep arbitrary values, for a device that computes nothing.

    The inputs and the loss live until `zero_grad`, as in a loop that rebinds them with the next batch.
    Raises whatever the device raises, out of memory included.
    """
    import torch

    torch.manual_seed(workload.seed)
    state = TrainingState()
    with recorder.phase(Phase(0, MODEL_LOADED), state):
        state.model = build_model(workload, initialize).to(device)
    state.optimizer = make_optimizer(workload, state.model)
    for step in range(1, workload.steps + 1):
        for micro_batch in range(1, workload.micro_batches + 1):
            with recorder.phase(Phase(step, FORWARD, micro_batch), state):
                state.batch = state.loss = None  # the last micro-batch is gone before this one arrives
                state.batch = make_batch(workload, device)
                state.loss = compute_loss(state.model, state.batch, workload)
            with recorder.phase(Phase(step, BACKWARD, micro_batch), state):
                state.loss.backward()
        with recorder.phase(Phase(step, OPTIMIZER_STEP), state):
            state.optimizer.step()
        with recorder.phase(Phase(step, ZERO_GRAD), state):
            state.batch = state.loss = None
            state.optimizer.zero_grad()


def compute_loss(model: torch.nn.Module, batch: Batch, workload: Workload) -> torch.Tensor:
    """The micro-batch's share of the step's loss; everything else that the model returns is let go."""
    output = model(**batch)
    loss: torch.Tensor = getattr(output, "loss", output)
    return loss / workload.micro_batches if workload.micro_batches > 1 else loss


def make_optimizer(workload: Workload, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The workload's optimizer in the implementation that torch picks for the device by itself."""
    import torch

    parameters = model.parameters()
    if workload.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3)
    if workload.optimizer == "momentum":
        return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    return torch.optim.Adam(parameters, lr=1e-4)
