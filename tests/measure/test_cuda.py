"""The CUDA recorder: its reading of traces anywhere, and live on a GPU under the mark `cuda`."""

import pytest
import torch

from profiler.ledger import Allocation, Free, Mark, account
from profiler.measure.cuda import CudaRecorder, _Boundary, _ledger_entries
from profiler.training_step import FORWARD, MODEL_LOADED, Phase, train
from profiler.workload import Workload


def boundary(phase, labels, trace, blocks):
    snapshot = {"device_traces": [trace], "segments": [{"blocks": blocks}]}
    return _Boundary(Mark(phase, labels), 0.0, 0.0, 0, {}, snapshot)


def alloc(address, size, frames=()):
    return {"action": "alloc", "addr": address, "size": size, "frames": list(frames)}


def block(address, size):
    return {"address": address, "size": size, "state": "active_allocated"}


def test_a_trace_becomes_ledger_entries_with_real_block_sizes():
    line = {"filename": "/home/someone/model.py", "line": 12, "name": "forward"}
    boundaries = [
        boundary(
            Phase(0, MODEL_LOADED),
            {0x1000: "parameters"},
            [
                alloc(0x1000, 11_000_000, [line]),
                alloc(0x9000, 100),
                {"action": "free_requested", "addr": 0x9000, "size": 100},
                {"action": "free_completed", "addr": 0x9000, "size": 100},
                {"action": "segment_alloc", "addr": 0x1000, "size": 12_582_912},
            ],
            [block(0x1000, 12_582_912)],  # an unsplit tail: the block is larger than the request
        )
    ]
    assert _ledger_entries(boundaries, 0)[:3] == [
        Allocation(0x1000, 12_582_912, 11_000_000, "model.py:12 forward"),
        Allocation(0x9000, 512, 100, ""),
        Free(0x9000),
    ]
    (loaded,) = account(_ledger_entries(boundaries, 0))
    assert (loaded.end["parameters"], loaded.end["rounding"]) == (11_000_000, 1_582_912)


def test_running_out_of_memory_leaves_an_event_without_an_address():
    """torch/csrc/cuda/memory_snapshot: an "oom" entry has `device_free` where the others have `addr`."""
    trace = [alloc(0x1000, 100), {"action": "oom", "device_free": 0, "size": 1 << 40}]
    entries = _ledger_entries([boundary(Phase(0, MODEL_LOADED), {}, trace, [])], 0)
    assert entries[0] == Allocation(0x1000, 512, 100, "")
    assert len(entries) == 2  # and the mark


def test_a_workspace_is_known_by_its_size_and_by_never_being_freed():
    workspace, tensor = 8_519_680, 512
    boundaries = [
        boundary(Phase(0, MODEL_LOADED), {0x1: "parameters"}, [alloc(0x1, tensor)], [block(0x1, tensor)]),
        boundary(
            Phase(1, FORWARD, 1),
            {0x1: "parameters"},
            [alloc(0x2, workspace)],
            [block(0x1, tensor), block(0x2, workspace)],
        ),
    ]
    forward = account(_ledger_entries(boundaries, 0))[1]
    assert forward.end["workspaces"] == workspace
    assert forward.end["activations"] == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model", ["mlp-tiny", "gpt2-tiny", "resnet-tiny"])
def test_the_ledger_agrees_with_the_allocator_at_every_boundary(model):
    with CudaRecorder() as recorder:
        train(Workload(model, 2, 32), torch.device("cuda"), recorder)
    for measurement in recorder.measurements():
        allocated_bytes = measurement.memory_stats["allocated_bytes.all.current"]
        assert measurement.account.end_bytes == allocated_bytes
        assert measurement.device_used_bytes > measurement.memory_stats["reserved_bytes.all.current"]
