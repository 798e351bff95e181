"""Counting a model's activations with CUDA's kernels: a forward pass on a simulated GPU.

`profiler.formula.facts` counts with the CPU's kernels, and those keep other tensors: dropout a mask of the
input's type instead of one byte an element, attention with dropout its score matrix instead of one statistic
a row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from profiler.formula.facts import ModelFacts, count_on

if TYPE_CHECKING:
    from profiler.gpu.cards import GPU
    from profiler.workload import Workload

_NO_LIMIT_BYTES = 2**50


def count_on_gpu(workload: Workload, gpu: GPU) -> ModelFacts:
    """The facts of `workload` with what the kernels of `gpu` keep for the backward pass.

    The GPU's memory does not matter: the count is of what the pass would need.
    """
    from profiler.gpu.simulated import simulated_gpu
    from profiler.training.models import build_model

    with simulated_gpu(replace(gpu, memory_bytes=_NO_LIMIT_BYTES)) as device:
        return count_on(device, workload, build_model(workload, initialize=False).to(device))
