"""Counting a model's activations with CUDA's kernels: one forward pass on a simulated GPU.

`profiler.model_facts` counts with the CPU's kernels, and those keep other tensors: dropout a mask of the
input's type instead of one byte an element, attention with dropout its score matrix instead of one statistic
a row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from profiler.model_facts import ModelFacts, count

if TYPE_CHECKING:
    from profiler.gpus import GPU
    from profiler.workload import Workload

_NO_LIMIT_BYTES = 2**50


def count_on_gpu(workload: Workload, gpu: GPU) -> ModelFacts:
    """The facts of `workload` with the activations that the kernels of `gpu` keep for the backward pass.

    What checkpointed segments recompute is still counted with the CPU's kernels. The GPU's memory does not
    matter: the count is of what the pass would need.
    """
    from profiler.measure.simulated import SimulatedRecorder
    from profiler.models import build_model, make_batch
    from profiler.training_step import FORWARD, MODEL_LOADED, Phase, TrainingState, compute_loss

    facts = count(workload)
    state = TrainingState()
    with SimulatedRecorder(replace(gpu, memory_bytes=_NO_LIMIT_BYTES)) as recorder:
        with recorder.phase(Phase(0, MODEL_LOADED), state):
            state.model = build_model(workload, initialize=False).to(recorder.device)
        with recorder.phase(Phase(1, FORWARD, 1), state):
            state.batch = make_batch(workload, recorder.device)
            state.loss = compute_loss(state.model, state.batch, workload, recorder.device.type)
    activation_bytes = recorder.measurements()[-1].account.end["activations"]
    return replace(facts, saved_bytes=activation_bytes - facts.loss_bytes - facts.weight_copy_bytes)
