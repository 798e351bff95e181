"""The record of one device allocation that a CUDA kernel makes for itself."""

from dataclasses import dataclass
from typing import Literal

Lifetime = Literal["stage", "op", "process"]


@dataclass(frozen=True)
class Scratch:
    """One temporary device allocation inside a CUDA op that is not an output tensor of the op.

    name: what the source calls the buffer.
    size_bytes: bytes requested, before the allocator rounds them. Never 0: a request of 0 bytes
        reaches no allocator, so the functions of this package leave it out.
    lifetime: "op", freed when the op returns; "stage", freed before the first scratch of a later
        stage, or the outputs that follow it, are allocated; "process", kept until the process ends.
    stage: position of the step inside the op; never decreases along a tuple.
    before_outputs: allocated before the output tensors of the op (the default is after them).
    until: of a "stage" scratch, the last stage that it lives in; its own if not given.
    """

    name: str
    size_bytes: int
    lifetime: Lifetime = "op"
    stage: int = 0
    before_outputs: bool = False
    until: int | None = None

    @property
    def last_stage(self) -> float:
        """The stage after which it is freed."""
        if self.lifetime != "stage":
            return float("inf")
        return self.stage if self.until is None else self.until


def scratches(*candidates: Scratch) -> tuple[Scratch, ...]:
    """The given allocations without those of 0 bytes."""
    return tuple(scratch for scratch in candidates if scratch.size_bytes > 0)
