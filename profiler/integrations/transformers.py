"""A callback for transformers' Trainer: the memory of its first steps, phase by phase.

trainer = Trainer(..., callbacks=[MemoryCallback(steps=3)])
trainer.train()
print(callback.recording.summary())
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from profiler.recording.loop import Recording, record


class MemoryCallback(TrainerCallback):
    """Records the first `steps` optimizer steps of a Trainer, and then stands aside.

    Attributes:
        recording: readable once the steps are over; None before training begins.
    """

    recording: Recording | None = None

    def __init__(self, steps: int = 2) -> None:
        self._steps = steps
        self._open = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to record the model on its device."""
        self._last_step = state.global_step + self._steps
        self.recording = self._open.enter_context(record(kwargs["model"], kwargs.get("optimizer")))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop after the last step to record."""
        if state.global_step >= self._last_step:
            self._open.close()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop, where training was shorter."""
        self._open.close()
