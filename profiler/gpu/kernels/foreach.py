"""Scratch of the foreach kernels that optimizers and gradient clipping call."""

from collections.abc import Sequence

from profiler.gpu.kernels.scratch import Scratch, scratches
from profiler.units import divide_up

CHUNK_ELEMENTS = 65536


def foreach_norm(elements: Sequence[int], element_bytes: int) -> tuple[Scratch, ...]:
    """Scratch of `_foreach_norm` over tensors of these numbers of elements.

    Source: ForeachReduceOp.cu, foreach_tensor_norm_cuda: one partial norm per chunk of 65,536
    elements, for every tensor as many as the largest has, in the opmath type. Allocated before the
    outputs (one 0-dim tensor per input). Other foreach kernels pass their lists as kernel arguments
    and allocate nothing (MultiTensorApply.cuh). Derived, not measured.
    """
    if not elements:
        return ()
    chunks = max(divide_up(count, CHUNK_ELEMENTS) for count in elements)
    size_bytes = len(elements) * chunks * max(element_bytes, 4)
    return scratches(Scratch("partial norms", size_bytes, "op", 0, True))
