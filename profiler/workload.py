"""A workload: everything that decides what one training run allocates, as plain data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from profiler.errors import ProfilerError

OPTIMIZERS = ("sgd", "momentum", "adam")
ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class Workload:
    """One training run, said in full.

    Attributes:
        model: a name in `profiler.models.MODELS`, such as "gpt2" or "gpt2-tiny".
        batch: samples in one micro-batch (what is on the device at once).
        length: what a sample's size means to the model: tokens of a sequence, or pixels of an image's
            side; 0 where the model fixes it (the MLP).
        optimizer: one of OPTIMIZERS, with torch's own default implementation for the device.
        attention: "sdpa" (fused where the device has it) or "eager" (the score matrix is a tensor).
        micro_batches: forward and backward passes before one optimizer step (gradient accumulation).
        steps: optimizer steps; the second is the steady state.
        seed: of the weights and of the data.
    """

    model: str
    batch: int
    length: int = 0
    optimizer: str = "adam"
    attention: str = "sdpa"
    micro_batches: int = 1
    steps: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ProfilerError where a value can never run."""
        for name in ("batch", "micro_batches", "steps"):
            if getattr(self, name) < 1:
                raise ProfilerError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.length < 0:
            raise ProfilerError(f"length must not be negative, not {self.length}")
        for name, allowed in (("optimizer", OPTIMIZERS), ("attention", ATTENTION)):
            if getattr(self, name) not in allowed:
                raise ProfilerError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(allowed)}")

    @property
    def key(self) -> str:
        """A short name that is the same for the same workload, today and after new fields are added.

        Fields at their default do not enter, so that a new field leaves the keys of old records alone.
        """
        said = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.default is dataclasses.MISSING or getattr(self, field.name) != field.default
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, in their order."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        size = f"{self.batch} × {self.length}" if self.length else f"{self.batch}"
        words = [self.model, f"batch {size}", self.optimizer]
        if self.attention != "sdpa":
            words.append(f"{self.attention} attention")
        if self.micro_batches > 1:
            words.append(f"{self.micro_batches} micro-batches")
        return ", ".join(words)
