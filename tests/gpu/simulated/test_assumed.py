"""Programs that look at values which are not computed: what they get, and that it is said."""

import math
import pickle

import pytest
import torch

from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import simulated_gpu
from profiler.gpu.simulated.tensors.assumed import AssumedReads
from profiler.gpu.simulated.tensors.unsupported import UnsupportedOperation

KIB = 1024


@pytest.fixture
def reads():
    """A simulated A100 whose unknown values may be read."""
    answers = AssumedReads(1.0)
    with simulated_gpu(GPUS["A100-40GB"], reads=answers):
        yield answers


def unknown(*shape):
    return torch.empty(*shape, device="cuda")


@pytest.mark.parametrize(
    ("healthy", "expected"),
    [
        (torch.isnan, False),
        (torch.isfinite, True),
        (lambda x: x.ne(x), False),
        (lambda x: x < float("inf"), True),
        (lambda x: torch.isinf(x).any() | torch.isnan(x).any(), False),
        (lambda x: torch.logical_or(x.isnan(), x.isinf()), False),
    ],
)
def test_an_unknown_loss_is_a_healthy_one(healthy, expected, reads):
    assert bool(healthy(unknown(()))) is expected
    (read,) = reads.reads
    assert "test_assumed.py" in read.line
    assert "as if each value" in read.assumption


def test_checks_of_large_tensors_find_nothing_wrong(reads):
    large = unknown(1 << 20)
    assert not torch.isnan(large).any()
    assert torch.isfinite(large).all()


def test_a_float_falls_from_read_to_read_and_is_the_same_when_read_again(reads):
    losses = [unknown(()) for _ in range(3)]
    values = [loss.cpu().item() for loss in losses]
    assert values == pytest.approx([2.0, 1.5, 1 + 1 / 3])
    assert losses[0].item() == 2.0
    assert math.isfinite(float(unknown(())))
    assert sum(read.count for read in reads.reads) == 5


def test_a_branch_on_the_best_loss_goes_the_way_of_a_training_that_learns(reads):
    best = float("inf")
    for _ in range(3):
        value = unknown(()).item()
        assert value < best
        best = value


def test_whole_tensors_come_to_the_host(reads):
    assert unknown(2, 3).detach().cpu().numpy().tolist() == [[1.0] * 3] * 2
    assert unknown(2).tolist() == [1.0, 1.0]
    assert (unknown(4, 5).argmax(1) == 0).sum().item() == 4
    assert any(read.operation == "copy to the host" for read in reads.reads)


def test_results_whose_size_is_unknown_are_the_largest(reads):
    scores = unknown(1 << 17)  # too large to be followed
    assert scores.nonzero().shape == (1 << 17, 1)
    assert scores[scores > 0].shape == (1 << 17,)
    values, inverse = torch.unique(scores, return_inverse=True)
    assert (values.shape, inverse.shape) == ((1 << 17,), (1 << 17,))
    assert {read.assumption for read in reads.reads} == {"every element counts: the largest result"}


def test_what_is_true_is_read_in_silence(reads):
    ids = torch.arange(6, device="cuda")
    assert (ids > 2).sum().item() == 3
    assert torch.ones(3, device="cuda").sum().item() == 3
    assert not reads.reads


def test_without_answers_a_read_is_refused(cuda):
    with pytest.raises(UnsupportedOperation, match="virtual GPU"):
        unknown(()).cpu()


def test_a_checkpoint_is_written_and_loaded_onto_the_device(reads, tmp_path):
    layer = torch.nn.Linear(64, 64, device="cuda")
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    before = torch.cuda.memory_allocated()
    state = torch.load(tmp_path / "layer.pt")
    assert torch.cuda.memory_allocated() - before == 64 * 64 * 4 + 512
    assert state["weight"].device == torch.device("cuda", 0)
    assert torch.load(tmp_path / "layer.pt", map_location="cpu")["weight"].device.type == "cpu"
    layer.load_state_dict(state)


def test_a_module_moves_to_the_host_and_back(reads):
    layer = torch.nn.Linear(64, 64, device="cuda")
    layer.cpu()
    assert torch.cuda.memory_allocated() == 0
    layer.cuda()
    assert torch.cuda.memory_allocated() == 64 * 64 * 4 + 512


def test_a_default_device(reads):
    torch.set_default_device("cuda")
    try:
        assert torch.nn.Linear(4, 4).weight.is_cuda
        assert torch.get_default_device().type == "cuda"
    finally:
        torch.set_default_device(None)


def test_a_generator_of_the_device(reads):
    generator = torch.Generator(device="cuda").manual_seed(0)
    assert isinstance(generator, torch.Generator)
    assert isinstance(torch.default_generator, torch.Generator)
    assert torch.randn(8, device="cuda", generator=generator).is_cuda
    assert torch.randperm(8, device="cuda", generator=generator).shape == (8,)


def test_a_share_of_the_memory(reads):
    torch.cuda.set_per_process_memory_fraction(0.5)
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.empty(total // 2 - (1 << 30), dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    del held


def test_events_ranges_and_the_history(reads, tmp_path):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    with torch.cuda.nvtx.range("step"):
        held = unknown(256 * KIB)
    end.record()
    assert start.elapsed_time(end) > 0
    torch.cuda.memory._record_memory_history()
    torch.cuda.memory._dump_snapshot(str(tmp_path / "snapshot.pickle"))
    segments = pickle.loads((tmp_path / "snapshot.pickle").read_bytes())["segments"]
    blocks = [block for segment in segments for block in segment["blocks"]]
    assert sum(b["size"] for b in blocks if b["state"] == "active_allocated") == 4 * 256 * KIB
    del held


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.cuda.CUDAGraph(),  # noqa: PLW0108  another one inside
        lambda: torch.compile(torch.nn.Linear(2, 2)),
        lambda: torch.distributed.init_process_group("nccl"),
    ],
)
def test_what_cannot_be_simulated_says_what_runs_it(call, reads):
    with pytest.raises(UnsupportedOperation, match=r"test_assumed\.py.*profiler on GPU -- python FILE"):
        call()


def test_a_gru_cell_keeps_five_states_for_the_backward_pass(cuda, ledger):
    """cuda/RNN.cu: six products for two gates, five and one of the state, then what backward makes."""
    cell, x = torch.nn.GRUCell(64, 128, device=cuda), torch.empty(4, 64, device=cuda)
    ledger.clear()
    state = cell(x)
    sizes = [size for size in ledger.events if size > 0]
    hidden, gates = 4 * 128 * 4, 4 * 3 * 128 * 4
    assert sizes[-2:] == [5 * hidden, hidden]
    assert gates in sizes
    assert state.shape == (4, 128)
