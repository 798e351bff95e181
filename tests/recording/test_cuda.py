"""The CUDA recorder: on recorded snapshots, on the simulated GPU, and live on a GPU under the mark `cuda`."""

import pytest
import torch

from profiler.device import Device
from profiler.gpu.cards import GPUS
from profiler.gpu.snapshot import parse_snapshot
from profiler.recording.cuda import CudaRecorder, _ledger_entries
from profiler.recording.workspaces import with_workspaces
from profiler.reference import probes
from profiler.runs.execute import run_on
from profiler.runs.rows import run_rows
from profiler.runs.run_settings import RunSettings
from profiler.trace.events import Allocation, Free, Mark
from profiler.trace.ledger import account
from profiler.trace.phase import FORWARD, MODEL_LOADED, Phase
from profiler.training.step import TrainingState, train
from profiler.workload import Workload
from tests.support.cuda_on_simulation import cuda_with_history, raw_segments
from tests.support.groundtruth import index_rows, load, needs_snapshots

H100 = GPUS["H100-80GB"]
# Recorded with C++ stacks; a training step of a large model, and a small one with many temporaries.
RECORDED = (
    "Hyperion-shuo+assignment2-systems/results__torch_memory_profiles__memory_snapshot_"
    "large_cl128_fw_with_grad.cdf88b3f.pickle",
    "HugePandaCoder+octree-nca-groupeq/my_snapshot.1e496ac8.pickle",
)


# --- what a snapshot says ----------------------------------------------------------------------------


def snapshot(trace, blocks):
    """One segment of 16 MiB from address 0x1000 on, tiled by blocks in use and what is free between them."""
    tiles, end = [], 0x1000
    for address, size in [*blocks, (0x1000 + (16 << 20), 0)]:
        if address > end:
            tiles.append({"address": end, "size": address - end, "state": "inactive"})
        if size:
            tiles.append(
                {"address": address, "size": size, "requested_size": size, "state": "active_allocated"}
            )
        end = address + size
    segment = {"device": 0, "address": 0x1000, "total_size": 16 << 20, "blocks": tiles}
    return parse_snapshot({"segments": [segment], "device_traces": [trace]}).devices[0]


def event(action, address, size, frames=()):
    return {"action": action, "addr": address, "size": size, "frames": list(frames)}


def frame(name, filename="??", line=0):
    return {"filename": filename, "line": line, "name": name}


def test_a_trace_becomes_ledger_entries_with_real_block_sizes():
    line = frame("forward", "/home/someone/model.py", 12)
    entries = _ledger_entries(
        snapshot(
            [
                event("segment_alloc", 0x1000, 16 << 20),
                event("alloc", 0x1000, 11_000_000, [line]),
                event("alloc", 0x1000 + 12_582_912, 100),
                event("free_requested", 0x1000 + 12_582_912, 100),
                event("free_completed", 0x1000 + 12_582_912, 100),
            ],
            [(0x1000, 12_582_912)],  # an unsplit tail: the block is larger than the request
        )
    )
    assert entries == [
        Allocation(0x1000, 12_582_912, 11_000_000, "model.py:12 forward"),
        Allocation(0x1000 + 12_582_912, 512, 100, ""),
        Free(0x1000 + 12_582_912),
    ]
    (loaded,) = account([*entries, Mark(Phase(0, MODEL_LOADED), {0x1000: "parameters"})])
    assert (loaded.end["parameters"], loaded.end["rounding"]) == (11_000_000, 1_582_912)


def test_in_the_backward_pass_the_cpp_stack_names_the_operation_and_its_node():
    stack = [
        frame("c10::cuda::CUDACachingAllocator::allocate(unsigned long)"),
        frame("at::_ops::empty_strided::call(c10::ArrayRef<c10::SymInt>)"),
        frame("at::_ops::sum_dim_IntList::call(at::Tensor const&)"),
        frame("torch::autograd::generated::AddmmBackward0::apply(std::vector<at::Tensor>&&)"),
    ]
    (entry,) = _ledger_entries(snapshot([event("alloc", 0x1000, 512, stack)], [(0x1000, 512)]))
    assert entry.op == "sum_dim_IntList, AddmmBackward0"


def test_running_out_of_memory_leaves_an_event_without_an_address():
    """torch/csrc/cuda/memory_snapshot: an "oom" entry has `device_free` where the others have `addr`."""
    oom = {"action": "oom", "device_free": 0, "size": 1 << 40, "frames": []}
    assert _ledger_entries(snapshot([event("alloc", 0x1000, 100), oom], [])) == [Allocation(0x1000, 512, 100)]


def test_a_workspace_is_known_by_its_size_and_by_never_being_freed():
    workspace = 8_519_680
    entries = [
        Allocation(0x1, 512, 512),
        Allocation(0x3, workspace, workspace),
        Free(0x3),
        Mark(Phase(0, MODEL_LOADED), {0x1: "parameters"}),
        Allocation(0x2, workspace, workspace),
        Allocation(0x4, workspace, workspace),
        Mark(Phase(1, FORWARD, 1), {0x1: "parameters", 0x4: "inputs"}),
    ]
    forward = account(with_workspaces(entries))[1]
    assert forward.end["workspaces"] == forward.end["inputs"] == workspace
    assert forward.end["activations"] == 0


# --- the recorder on what others recorded ------------------------------------------------------------


@needs_snapshots
@pytest.mark.parametrize("file", RECORDED)
def test_the_recorder_reads_real_snapshots_to_the_byte(file, monkeypatch):
    """Only torch.cuda is replaced; what was allocated before the recording began is told by its blocks."""
    index = {row["file"]: row for row in index_rows()}
    recorded = load(file).devices[0]
    raw_before, raw_after = _raw(recorded, before=True), _raw(recorded, before=False)
    snapshots = iter([raw_before, raw_after])
    for name, answer in (
        ("init", lambda: None),
        ("reset_peak_memory_stats", lambda: None),
        ("synchronize", lambda: None),
        ("current_device", lambda: 0),
        ("mem_get_info", lambda: (1 << 30, 80 << 30)),
        ("memory_stats", lambda: {"allocated_bytes.all.current": int(index[file]["allocated_end"])}),
    ):
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: next(snapshots))
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **options: None)
    with CudaRecorder(from_snapshot=True) as recorder, recorder.phase(Phase(1, FORWARD, 1), TrainingState()):
        pass
    (measurement,) = recorder.measurements()
    assert measurement.account.end_bytes == int(index[file]["allocated_end"])
    assert sum(measurement.account.end.values()) == measurement.account.end_bytes
    assert measurement.device_used_bytes == 79 << 30
    made = [e for e in recorder.entries if isinstance(e, Allocation)][len(_born_before(recorded)) :]
    assert len(made) == int(index[file]["n_alloc"])
    assert all(entry.op for entry in made)


def _born_before(device):
    """Blocks in use at the end that the trace did not allocate, by address."""
    born = {e.address for e in device.events if e.action == "alloc"}
    blocks = [b for segment in device.segments for b in segment.blocks if b.state == "active_allocated"]
    return {block.address for block in blocks if block.address not in born}


def _raw(device, before):
    """The snapshot again as torch has it: at the end, or at the beginning with an empty trace."""
    born = {e.address for e in device.events if e.action == "alloc"}
    trace = [event(e.action, e.address, e.size_bytes, [f._asdict() for f in e.frames]) for e in device.events]
    return {
        "segments": raw_segments(device.segments, unused=born if before else ()),
        "device_traces": [[] if before else trace],
    }


# --- the recorder on the simulated GPU ---------------------------------------------------------------

# What only a real GPU tells, what takes time, and how operations are called.
_OF_THE_DEVICE = ("device_used_bytes", "seconds", "reading_seconds", "detail")


@pytest.mark.parametrize(
    ("workload", "settings"),
    [
        (Workload("mlp-tiny", 32), {}),
        (Workload("gpt2-tiny", 2, 64, precision="amp_bf16", micro_batches=2), {"attention_kernel": "flash"}),
        (Workload("bert-tiny", 2, 64, "sgd", precision="amp_fp16", checkpointing="selective"), {}),
        (Workload("llama-tiny", 2, 64, precision="fp16_master", checkpointing="every_layer"), {}),
        (Workload("resnet-tiny", 4, 32, "adafactor", memory_format="channels_last"), {}),
        (Workload("mlp-tiny", 32), {"limit_bytes": 34 << 20}),  # cuBLAS's second workspace does not fit
    ],
    ids=str,
)
def test_both_recorders_say_the_same_of_one_simulated_run(workload, settings):
    with cuda_with_history(H100):
        on_cuda = run_rows(run_on(workload, Device("cuda"), RunSettings(**settings)), "")
    simulated = run_rows(run_on(workload, Device("simulated", H100), RunSettings(**settings)), "")
    assert [_comparable(row) for row in on_cuda] == [_comparable(row) for row in simulated]
    assert on_cuda[-1]["outcome"] == ("out_of_memory" if settings.get("limit_bytes") else "ok")
    assert all(row["device_used_bytes"] == row["reserved_bytes"] for row in on_cuda)


def _comparable(row):
    return {name: value for name, value in row.items() if name not in _OF_THE_DEVICE}


def test_probes_take_the_same_way_on_cuda():
    chosen = probes.probes("small")
    with cuda_with_history(H100):
        on_cuda = probes.requests_of_probes(chosen, Device("cuda"))
    simulated = probes.requests_of_probes(chosen, Device("simulated", H100))
    assert sum(row["requested_bytes"] for row in on_cuda) > 0
    for a, b in zip(on_cuda, simulated, strict=True):
        assert {**a, "op": ""} == {**b, "op": ""}


# --- the recorder on a GPU ---------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model", ["mlp-tiny", "gpt2-tiny", "resnet-tiny"])
def test_the_ledger_agrees_with_the_allocator_at_every_boundary(model):
    with CudaRecorder() as recorder:
        train(Workload(model, 2, 32), torch.device("cuda"), recorder)
    for measurement in recorder.measurements():
        allocated_bytes = measurement.memory_stats["allocated_bytes.all.current"]
        assert measurement.account.end_bytes == allocated_bytes
        assert measurement.account.peak_bytes <= measurement.memory_stats["allocated_bytes.all.peak"]
        assert measurement.device_used_bytes > measurement.memory_stats["reserved_bytes.all.current"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_allocation_of_a_step_has_a_name():
    with CudaRecorder() as recorder:
        train(Workload("gpt2-tiny", 2, 32), torch.device("cuda"), recorder)
    allocations = [entry for entry in recorder.entries if isinstance(entry, Allocation)]
    assert [entry for entry in allocations if not entry.op and entry.category != "workspaces"] == []
