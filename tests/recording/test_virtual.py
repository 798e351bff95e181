"""Recording on the virtual GPU, held against the allocator's own statistics and history, and arithmetic."""

from dataclasses import replace

import pytest
import torch

from profiler.recording.virtual.recorder import VirtualRecorder
from profiler.runs.virtual_process import in_virtual_process
from profiler.trace.events import Allocation, Mark
from profiler.trace.phase import Phase
from profiler.training.step import TrainingState, train
from profiler.units import MIB
from profiler.workload import Workload
from tests.support.virtual_gpu import installed_torch, needed, one

A100 = one("A100-40GB")
PARAMETERS = 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10  # of mlp-tiny


@pytest.fixture(autouse=True)
def _there_can_be_one():
    needed(installed_torch())


def _trained(workload, history=False):
    recorder = VirtualRecorder()
    if history:
        torch.cuda.memory._record_memory_history(context=None)
    with recorder:
        train(workload, recorder.device, recorder, initialize=False)
    traces = torch.cuda.memory._snapshot()["device_traces"] if history else None
    return recorder.entries, recorder.reserved_bytes, recorder.measurements(), traces


def _run(workload, **options):
    return in_virtual_process(_trained, workload, *options.values(), gpus=A100, name=str(workload)).result


@pytest.mark.parametrize(
    "workload",
    [
        Workload("mlp-tiny", batch=32, optimizer="adamw"),
        Workload("gpt2-tiny", batch=4, length=64, precision="amp_fp16", micro_batches=2),
        Workload("resnet-tiny", batch=2, length=32, optimizer="sgd"),
    ],
    ids=str,
)
def test_the_events_add_up_to_what_the_allocator_counts(workload):
    entries, reserved_bytes, measurements, _ = _run(workload)
    start = 0
    ends = [index for index, entry in enumerate(entries) if isinstance(entry, Mark)]
    for measurement, end in zip(measurements, ends, strict=True):
        account, statistics = measurement.account, measurement.memory_stats
        assert account.end_bytes == statistics["allocated_bytes.all.current"]
        assert account.peak_bytes == statistics["allocated_bytes.all.peak"]
        assert sum(account.peak.values()) == account.peak_bytes
        assert max(reserved_bytes[start : end + 1]) == statistics["reserved_bytes.all.peak"]
        assert reserved_bytes[end] == statistics["reserved_bytes.all.current"]
        start = end


def test_categories_and_modules_are_those_of_the_model():
    entries, _, measurements, _ = _run(Workload("mlp-tiny", batch=32, optimizer="adam"))
    (loaded, forward, backward, step, zeroed) = (measurement.account for measurement in measurements[:5])
    assert loaded.end["parameters"] == 4 * PARAMETERS
    assert backward.end["gradients"] == step.end["gradients"] == 4 * PARAMETERS
    assert zeroed.end["gradients"] == 0
    assert zeroed.end["optimizer_states"] == 2 * 4 * PARAMETERS  # and no counter: that is on the CPU
    assert forward.end["inputs"] == 32 * 64 * 4 + 32 * 8  # floats, and classes as 64-bit integers
    weight = next(e for e in entries if isinstance(e, Allocation) and e.requested_bytes == 256 * 256 * 4)
    assert weight.where.module == "layers.1.0"
    (logits,) = {
        (e.op, e.where.module)
        for e in entries
        if isinstance(e, Allocation) and e.requested_bytes == 32 * 10 * 4 and e.op == "aten::addmm"
    }
    assert logits == ("aten::addmm", "layers.2")


def test_every_block_is_seen_that_the_allocator_s_own_history_has():
    entries, _, _, (trace,) = _run(Workload("bert-tiny", batch=2, length=32), history=True)
    ours = [e.size_bytes for e in entries if isinstance(e, Allocation)]
    theirs = [e["addr"] for e in trace if e["action"] == "alloc"]
    assert [e.address for e in entries if isinstance(e, Allocation)] == theirs
    assert len(ours) > 100


def _two_requests():
    recorder = VirtualRecorder()
    state = TrainingState()
    with recorder:
        with recorder.phase(Phase(0, "model_loaded"), state):
            kept = torch.empty(10 * MIB, dtype=torch.uint8, device="cuda")
        try:
            with recorder.phase(Phase(1, "forward"), state):
                torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            pass
    return recorder.refusals, kept.numel()


def test_a_request_without_room_is_kept_with_what_there_was():
    refusals, kept = in_virtual_process(
        _two_requests, gpus=replace(A100, context_bytes=0), name="the test"
    ).result
    (refusal,) = refusals
    assert (refusal.requested_bytes, refusal.allocated_bytes) == (1 << 50, kept)
    assert refusal.reserved_bytes == 10 * MIB  # a request of at least 10 MiB has a segment of its own size
    assert refusal.where.line.endswith("_two_requests")
