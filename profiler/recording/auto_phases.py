"""Phases of a training loop that names none: found from what it calls.

| phase | from | to |
|---|---|---|
| model_loaded | the start | the first call of a module |
| forward | a module is called | backward is called, or the module again with nothing it computed |
| evaluation | a module is called with gradients off | anything else of this table begins |
| backward | `Tensor.backward` or `torch.autograd.backward` is called | it returns |
| optimizer_step | `Optimizer.step` is called | it returns |
| zero_grad | `Optimizer.zero_grad` is called next after a step | it returns |

What happens between two phases is part of the next (moving a batch belongs to its forward, clipping to the
step). Optimizers that step inside a backward (a hook of each parameter) are part of it. A forward and
backward that an optimizer calls for (a closure) are phases of their own, the rest is its step.
Nothing of the loop is held: modules, optimizers and inputs by weak references.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType
from typing import Any
from weakref import ReferenceType, WeakSet, ref

import torch
from torch.optim import optimizer as optimizers

from profiler.gpu.patched import Patch, patched
from profiler.recording.module_calls import told_of_module_calls
from profiler.recording.step_count import StepCount
from profiler.trace.phase import (
    EVALUATION,
    FORWARD,
    MODEL_LOADED,
    OPTIMIZER_STEP,
    Phase,
)
from profiler.training.step import TrainingState


@contextmanager
def auto_phases(
    record_phase: Callable[[Phase, TrainingState], AbstractContextManager[None]],
    step_ends: Callable[[int], None] = lambda step: None,
) -> Iterator[None]:
    """Tell the phases of whatever training loop runs inside to `record_phase`, a Recorder's `phase`.

    `step_ends(step)` is called where a module is called next after a training step is complete, before the
    phase of that call begins; it may raise. Optimizers that do not derive from torch.optim.Optimizer are not
    seen.
    """
    phases = _Phases(record_phase, step_ends)
    with ExitStack() as patches:
        patches.enter_context(told_of_module_calls(phases.enter_module, phases.leave_module))
        optimizer, scaler = torch.optim.Optimizer, torch.amp.GradScaler
        replaced: list[Patch] = [
            (torch.autograd, "backward", phases.around_backward(torch.autograd.backward)),
            (optimizer, "__init__", phases.around_optimizer(optimizer.__init__)),
            (optimizer, "zero_grad", phases.around_zero_grad(optimizer.zero_grad)),
            (scaler, "scale", phases.around_scale(scaler.scale)),
        ]
        patches.enter_context(patched(replaced))
        for handle in (
            optimizers.register_optimizer_step_pre_hook(phases.step_begins),
            optimizers.register_optimizer_step_post_hook(phases.step_ended),
        ):
            patches.callback(handle.remove)
        phases.begin(Phase(0, MODEL_LOADED))
        try:
            yield
        finally:
            phases.end()


class _Phases:
    """Which phase is open, and what has been seen of the loop."""

    def __init__(
        self,
        record_phase: Callable[[Phase, TrainingState], AbstractContextManager[None]],
        step_ends: Callable[[int], None],
    ) -> None:
        self._record_phase = record_phase
        self._step_ends = step_ends
        self._told_of_step = 0
        self._count = StepCount()
        self._open: AbstractContextManager[None] | None = None
        self._phase = Phase(0, MODEL_LOADED)
        self._state = TrainingState()
        self._modules: WeakSet[torch.nn.Module] = WeakSet()
        self._optimizers: WeakSet[torch.optim.Optimizer] = WeakSet()
        self._scaler: ReferenceType[torch.amp.GradScaler] | None = None
        self._called: WeakSet[torch.nn.Module] = WeakSet()  # in the open forward, by the loop itself
        self._inputs: list[ReferenceType[torch.Tensor]] = []
        self._depth = 0  # of modules and backwards, in which everything is inside one phase
        self._steps_open: list[int] = []  # ids of the frames that step, the outer first

    def begin(self, phase: Phase) -> None:
        self.end()
        self._phase = phase
        self._open = self._record_phase(phase, self._state)
        self._open.__enter__()

    def end(self) -> None:
        if self._open is None:
            return
        self._state.modules, self._state.optimizers = tuple(self._modules), tuple(self._optimizers)
        self._state.scaler = self._scaler() if self._scaler is not None else None
        inputs = (reference() for reference in self._inputs)
        self._state.batch = {str(i): tensor for i, tensor in enumerate(inputs) if tensor is not None}
        opened, self._open = self._open, None
        try:
            opened.__exit__(None, None, None)
        finally:
            self._state.modules = self._state.optimizers = ()
            self._state.batch = self._state.scaler = None

    def enter_module(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._depth == 0:
            self._modules.add(module)
            self._called_by_the_loop(module, (args, kwargs))
        self._depth += 1

    def leave_module(self, module: torch.nn.Module) -> None:
        self._depth -= 1

    def _called_by_the_loop(self, module: torch.nn.Module, arguments: Any) -> None:
        self._forget_steps_that_raised(sys._getframe())
        leaves = torch.utils._pytree.tree_leaves(arguments)
        if _prepares_data(module, leaves):
            return
        tensors = [leaf for leaf in leaves if _is_tensor(leaf)]
        if self._count.complete and self._told_of_step < self._count.step and not self._steps_open:
            self._told_of_step = self._count.step
            self._step_ends(self._count.step)
        name = FORWARD if torch.is_grad_enabled() else EVALUATION
        if self._open is None or self._phase.name != name or self._is_another(module, tensors):
            self.begin(self._count.forward() if name == FORWARD else self._count.evaluation())
            self._called.clear()
            self._inputs.clear()
        self._called.add(module)
        self._inputs += [ref(tensor) for tensor in tensors if tensor.grad_fn is None]

    def _is_another(self, module: torch.nn.Module, tensors: list[torch.Tensor]) -> bool:
        """Whether the call begins another forward: the same module, and nothing computed comes back to it."""
        again = self._phase.name == FORWARD and module in self._called
        return again and all(tensor.grad_fn is None for tensor in tensors)

    def around_backward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        def call_backward(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return backward(*args, **kwargs)
            self.begin(self._count.backward())
            self._depth += 1
            try:
                return backward(*args, **kwargs)
            finally:
                self._depth -= 1
                self.end()

        return call_backward

    def around_optimizer(self, initialize: Callable[..., Any]) -> Callable[..., Any]:
        def call_initialize(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
            initialize(optimizer, *args, **kwargs)
            self._knows(optimizer)

        return call_initialize

    def around_zero_grad(self, zero_grad: Callable[..., Any]) -> Callable[..., Any]:
        def call_zero_grad(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            after_step = self._open is None and self._phase.name == OPTIMIZER_STEP
            if not after_step or self._depth or self._steps_open:
                return zero_grad(optimizer, *args, **kwargs)
            self._knows(optimizer)
            self.begin(self._count.zero_grad())
            try:
                return zero_grad(optimizer, *args, **kwargs)
            finally:
                self.end()

        return call_zero_grad

    def around_scale(self, scale: Callable[..., Any]) -> Callable[..., Any]:
        def call_scale(scaler: torch.amp.GradScaler, *args: Any, **kwargs: Any) -> Any:
            self._scaler = ref(scaler)
            return scale(scaler, *args, **kwargs)

        return call_scale

    def step_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._knows(optimizer)
        phase = self._count.optimizer_step(optimizer)
        stepping = sys._getframe(1)
        self._forget_steps_that_raised(stepping.f_back)
        if self._depth == 0 and not self._steps_open:
            self.begin(phase)
        self._steps_open.append(id(stepping))

    def step_ended(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._steps_open.pop()
        if self._depth or self._steps_open:
            return
        if self._open is None or self._phase.name != OPTIMIZER_STEP:  # a closure had phases of its own
            self.begin(Phase(self._count.step, OPTIMIZER_STEP))
        self.end()

    def _forget_steps_that_raised(self, frame: FrameType | None) -> None:
        """A step that ran out of memory has no end: the program may have gone on."""
        if not self._steps_open:
            return
        running: set[int] = set()
        while frame is not None:
            running.add(id(frame))
            frame = frame.f_back
        self._steps_open = [step for step in self._steps_open if step in running]

    def _knows(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizers.add(optimizer)
        self._count.know(optimizer)


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and not isinstance(leaf, torch.nn.Parameter)


def _prepares_data(module: torch.nn.Module, given: list[Any]) -> bool:
    """Whether there is nothing to learn in the call, as in a transform of images: no phase begins there."""
    computed = any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in given)
    return not computed and next(module.parameters(), None) is None
