"""Allocations inside CUDA kernels that no tensor shows, bound to the operations that make them."""

from collections.abc import Sequence
from typing import Any

from torch._ops import OpOverload

from profiler.gpus import GPU
from profiler.kernels.scratch import Scratch


class Scratches:
    """The hidden allocations of each operation on one GPU."""

    def __init__(self, gpu: GPU) -> None:
        self._gpu = gpu

    def of(
        self, op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], described: Any
    ) -> tuple[Scratch, ...]:
        """What `op` allocates beside its outputs, in order."""
        return ()
