"""Which training step a phase belongs to, of a loop that says nothing: told by who has stepped."""

from __future__ import annotations

from weakref import WeakSet

import torch

from profiler.trace.phase import BACKWARD, EVALUATION, FORWARD, OPTIMIZER_STEP, ZERO_GRAD, Phase


class StepCount:
    """Counts training steps and micro-batches as forwards, backwards and optimizers' steps come.

    A training step is complete when every optimizer of the program has stepped in it (two of a GAN, one a
    parameter); the next forward begins another. An optimizer that steps again before the others begins one
    too, and the others are waited for no more (a critic that is trained five times as often).
    """

    def __init__(self) -> None:
        self.step = 0
        self._micro_batch = 0
        self._optimizers: WeakSet[torch.optim.Optimizer] = WeakSet()
        self._rare: WeakSet[torch.optim.Optimizer] = WeakSet()
        self._stepped: WeakSet[torch.optim.Optimizer] = WeakSet()

    def know(self, optimizer: torch.optim.Optimizer) -> None:
        """The program has this optimizer."""
        self._optimizers.add(optimizer)

    @property
    def complete(self) -> bool:
        """Whether the step is over: what comes next belongs to another."""
        waited_for = set(self._optimizers) - set(self._rare)
        return bool(self._stepped) and waited_for <= set(self._stepped)

    def forward(self) -> Phase:
        """A forward begins."""
        if self.step == 0 or self.complete:
            self._next_step()
        self._micro_batch += 1
        return Phase(self.step, FORWARD, self._micro_batch)

    def evaluation(self) -> Phase:
        """A forward without gradients begins."""
        return Phase(self.step, EVALUATION)

    def backward(self) -> Phase:
        """A backward begins, of the latest forward."""
        self.step, self._micro_batch = max(self.step, 1), max(self._micro_batch, 1)
        return Phase(self.step, BACKWARD, self._micro_batch)

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> Phase:
        """An optimizer steps."""
        self.know(optimizer)
        if optimizer in self._stepped and self._optimizers - self._stepped:
            self._rare |= self._optimizers - self._stepped
            self._next_step()
        self.step = max(self.step, 1)
        self._stepped.add(optimizer)
        return Phase(self.step, OPTIMIZER_STEP)

    def zero_grad(self) -> Phase:
        """Gradients are given back after a step."""
        return Phase(self.step, ZERO_GRAD)

    def _next_step(self) -> None:
        self.step, self._micro_batch = self.step + 1, 0
        self._stepped.clear()
