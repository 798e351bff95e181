"""Phases of a training loop that names none: found from what it calls.

| phase | from | to |
|---|---|---|
| model_loaded | the start | the first call of a module |
| forward | a module is called | backward is called |
| backward | `Tensor.backward` or `torch.autograd.backward` is called | it returns |
| optimizer_step | `Optimizer.step` is called | it returns |
| zero_grad | `Optimizer.zero_grad` is called next after a step | it returns |

What happens between two phases is part of the next (moving a batch belongs to its forward, clipping to the
step). A forward after a step begins the next training step, one after a backward the next micro-batch.
Nothing of the loop is held: modules, optimizers and inputs by weak references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch
from weakref import WeakSet, ref

import torch
from torch.optim import optimizer as optimizers

from profiler.trace.phase import BACKWARD, FORWARD, MODEL_LOADED, OPTIMIZER_STEP, ZERO_GRAD, Phase
from profiler.training.step import Recorder, TrainingState


@contextmanager
def auto_phases(recorder: Recorder) -> Iterator[None]:
    """Tell `recorder` the phases of whatever training loop runs inside.

    A call of a module without a backward afterwards (evaluation) is a forward too. Optimizers that do not
    derive from torch.optim.Optimizer are not seen.
    """
    phases = _Phases(recorder)
    with ExitStack() as patches:
        for owner, name, wrapper in (
            (torch.nn.Module, "__call__", phases.around_module),
            (torch.autograd, "backward", phases.around_backward),
            (torch.optim.Optimizer, "zero_grad", phases.around_zero_grad),
        ):
            patches.enter_context(patch.object(owner, name, wrapper(getattr(owner, name))))
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

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._open: AbstractContextManager[None] | None = None
        self._phase = Phase(0, MODEL_LOADED)
        self._state = TrainingState()
        self._modules: WeakSet[torch.nn.Module] = WeakSet()
        self._optimizers: WeakSet[torch.optim.Optimizer] = WeakSet()
        self._inputs: list[ref[torch.Tensor]] = []
        self._depth = 0  # of calls, in which everything is inside one phase

    def begin(self, phase: Phase) -> None:
        self.end()
        self._phase = phase
        self._open = self._recorder.phase(phase, self._state)
        self._open.__enter__()

    def end(self) -> None:
        if self._open is None:
            return
        live, optimizer = _Live(self._modules, self._optimizers), _States(self._optimizers)
        self._state.model, self._state.optimizer = live, optimizer  # type: ignore[assignment]
        inputs = (reference() for reference in self._inputs)
        self._state.batch = {str(i): tensor for i, tensor in enumerate(inputs) if tensor is not None}
        try:
            self._open.__exit__(None, None, None)
        finally:
            self._open = None
            self._state.model = self._state.optimizer = self._state.batch = None

    def around_module(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def call_module(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return call(module, *args, **kwargs)
            self._modules.add(module)
            if self._open is None or self._phase.name != FORWARD:
                self.begin(self._next_forward())
                self._inputs.clear()
            self._inputs += [ref(t) for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
            with self._inside():
                return call(module, *args, **kwargs)

        return call_module

    def around_backward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        def call_backward(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return backward(*args, **kwargs)
            before = self._phase
            self.begin(Phase(max(before.step, 1), BACKWARD, max(before.micro_batch, 1)))
            with self._inside():
                result = backward(*args, **kwargs)
            self.end()
            return result

        return call_backward

    def around_zero_grad(self, zero_grad: Callable[..., Any]) -> Callable[..., Any]:
        def call_zero_grad(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            self._optimizers.add(optimizer)
            after_step = self._open is None and self._phase.name == OPTIMIZER_STEP
            if not after_step or self._depth:
                return zero_grad(optimizer, *args, **kwargs)
            self.begin(Phase(self._phase.step, ZERO_GRAD))
            result = zero_grad(optimizer, *args, **kwargs)
            self.end()
            return result

        return call_zero_grad

    def step_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._optimizers.add(optimizer)
        self.begin(Phase(max(self._phase.step, 1), OPTIMIZER_STEP))

    def step_ended(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.end()

    def _next_forward(self) -> Phase:
        before = self._phase
        if before.name == BACKWARD:
            return Phase(before.step, FORWARD, before.micro_batch + 1)
        return Phase(before.step + 1, FORWARD, 1)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


class _Live:
    """All modules and optimizers seen, as one model."""

    def __init__(
        self, modules: WeakSet[torch.nn.Module], optimizers_seen: WeakSet[torch.optim.Optimizer]
    ) -> None:
        self._modules, self._optimizers = modules, optimizers_seen

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        seen: set[int] = set()
        for module in self._modules:
            for name, parameter in module.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield name, parameter
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for index, parameter in enumerate(group["params"]):
                    if id(parameter) not in seen:
                        seen.add(id(parameter))
                        yield f"parameter {index} of {type(optimizer).__name__}", parameter

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def buffers(self) -> Iterator[torch.Tensor]:
        return (buffer for module in self._modules for buffer in module.buffers())


class _States:
    """The states of all optimizers seen, as one optimizer."""

    def __init__(self, optimizers_seen: WeakSet[torch.optim.Optimizer]) -> None:
        self.state = {
            parameter: values
            for optimizer in optimizers_seen
            for parameter, values in optimizer.state.items()
        }
