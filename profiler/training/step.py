"""The training step: one code path for every device, cut into named phases."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from profiler.trace.phase import BACKWARD, FORWARD, MODEL_LOADED, OPTIMIZER_STEP, ZERO_GRAD, Phase
from profiler.training import precision
from profiler.training.built_in import Batch
from profiler.training.models import build_model, code_in_use, find_model, make_batch, named_modules
from profiler.training.optimizers import make_optimizer
from profiler.training.own_models import call_with
from profiler.training.sharding import holder_of_states, placed
from profiler.workload import Sharding, Workload


@dataclass
class TrainingState:
    """What the training loop holds; nobody else keeps a reference, or tensors would live too long.

    `modules` are the outermost ones: one model, or the several that a loop of the user's own calls.
    """

    modules: Collection[torch.nn.Module] = ()
    optimizers: Collection[torch.optim.Optimizer] = ()
    scaler: torch.amp.GradScaler | None = None
    batch: Batch | None = None
    loss: torch.Tensor | None = None

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Each parameter once, by its path in its module; those of no module by their optimizer."""
        seen: set[int] = set()
        for module in self.modules:
            for name, parameter in _named_parameters(module):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield name, parameter
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for index, parameter in enumerate(group["params"]):
                    if id(parameter) not in seen:
                        seen.add(id(parameter))
                        yield f"parameter {index} of {type(optimizer).__name__}", parameter


def _named_parameters(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """All, one that is tied as often as it is there."""
    if type(root).named_parameters is not torch.nn.Module.named_parameters:  # FSDP's leaves its wrapper out
        yield from root.named_parameters()
        return
    for path, module in named_modules(root):
        before = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield before + name, parameter


class Recorder(Protocol):
    """Whoever wants to know what memory does during a phase."""

    def phase(self, phase: Phase, state: TrainingState) -> AbstractContextManager[None]:
        """Entered before the phase's first allocation, left after its last."""


def train(
    workload: Workload,
    device: torch.device,
    recorder: Recorder,
    initialize: bool = True,
    sharding: Sharding | None = None,
    built: torch.nn.Module | None = None,
) -> None:
    """Run the workload's steps on `device`, telling `recorder` where each phase begins and ends.

    With `initialize=False` the weights keep arbitrary values, for a device that computes nothing. With a
    `sharding` it is the step of one rank, in a process that has joined the others. `built` is the workload's
    model where it has been built already, on the CPU, with the CPU's generator set to its seed before.

    The loss scaler does nothing but in the fp16 precisions, and there is one micro-batch unless gradients are
    accumulated. The inputs and the loss live until `zero_grad`, as in a loop that rebinds them with the
    next batch.
    Raises whatever the device raises, out of memory included.
    """
    with code_in_use(workload):
        _train(workload, device, recorder, initialize, sharding, built)


def _train(
    workload: Workload,
    device: torch.device,
    recorder: Recorder,
    initialize: bool,
    sharding: Sharding | None,
    built: torch.nn.Module | None,
) -> None:
    if built is None:
        torch.manual_seed(workload.seed)
    else:  # the CPU's random numbers go on where building left them
        torch.cuda.manual_seed_all(workload.seed)
    state = TrainingState()
    with recorder.phase(Phase(0, MODEL_LOADED), state):
        module = build_model(workload, initialize) if built is None else built
        model = placed(module, device, sharding)
        state.modules = (module,)
    optimizer = make_optimizer(workload, module, sharding)
    state.optimizers = (holder_of_states(optimizer),)
    state.scaler = precision.make_scaler(workload, device.type)
    for step in range(1, workload.steps + 1):
        for micro_batch in range(1, workload.micro_batches + 1):
            with recorder.phase(Phase(step, FORWARD, micro_batch), state):
                state.batch = state.loss = None  # the last micro-batch is gone before this one arrives
                state.batch = make_batch(workload, device)
                state.loss = compute_loss(model, state.batch, workload, device.type)
            with recorder.phase(Phase(step, BACKWARD, micro_batch), state):
                state.scaler.scale(state.loss).backward()
        with recorder.phase(Phase(step, OPTIMIZER_STEP), state):
            state.scaler.step(optimizer)
            state.scaler.update()
        with recorder.phase(Phase(step, ZERO_GRAD), state):
            state.batch = state.loss = None
            optimizer.zero_grad()


def compute_loss(model: torch.nn.Module, batch: Batch, workload: Workload, device_type: str) -> torch.Tensor:
    """The micro-batch's share of the step's loss; everything else that the model returns is let go."""
    own_loss = find_model(workload).family.loss
    with precision.autocast(workload, device_type):
        output = own_loss(model, batch) if own_loss else call_with(model, batch)
        loss: torch.Tensor = getattr(output, "loss", output)
    return loss / workload.micro_batches if workload.micro_batches > 1 else loss
