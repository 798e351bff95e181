"""A program written for CUDA finds its device, its memory statistics and its tools."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from profiler.gpu.allocator import DeviceOutOfMemory
from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import simulated_gpu
from profiler.gpu.simulated.tensors.assumed import AssumedReads
from profiler.gpu.simulated.tensors.unsupported import UnsupportedOperation

MIB = 1 << 20


def test_devices_are_cuda_on_the_way_in_and_out(cuda):
    made = [
        torch.empty(2, device="cuda"),
        torch.empty(2, device=torch.device("cuda", 0)),
        torch.empty(2, device=0),
        torch.empty(2).cuda(),
        torch.empty(2).to("cuda:0"),
        torch.empty(2).to("cuda", torch.float16),
        torch.tensor([1.0, 2.0], device="cuda"),
        torch.randn(2, device=cuda).new_zeros(2),
        nn.Linear(1, 2).cuda().bias,
        nn.Linear(1, 2, device="cuda").bias,
    ]
    with torch.device("cuda"):
        made.append(torch.empty(2))
    for tensor in made:
        assert tensor.device == torch.device("cuda", 0)
        assert tensor.is_cuda
    assert not torch.empty(2).is_cuda
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.empty(2, device="cuda:1")


def test_moving_a_module_keeps_tied_weights_tied(cuda, ledger):
    model = nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 100, bias=False))
    model[1].weight = model[0].weight
    model.to("cuda")
    assert model[1].weight is model[0].weight
    assert ledger.live_bytes == 4 * 6400


def test_memory_queries(cuda):
    assert torch.cuda.is_available()
    assert torch.cuda.get_device_properties(0).total_memory == GPUS["A100-40GB"].memory_bytes
    assert torch.cuda.get_device_capability() == (8, 0)
    x = torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() == 3 * MIB
    assert torch.cuda.memory_reserved() == 20 * MIB
    assert torch.cuda.mem_get_info()[0] == GPUS["A100-40GB"].memory_bytes - 20 * MIB
    del x
    assert torch.cuda.memory_allocated() == 0
    assert torch.cuda.max_memory_allocated() == 3 * MIB
    assert torch.cuda.memory_stats()["reserved_bytes.all.current"] == 20 * MIB
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == 0
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 0
    torch.cuda.synchronize()


def test_everything_is_put_back(ledger):
    before = (torch.cuda.is_available, torch.is_autocast_enabled, torch.clear_autocast_cache)
    with simulated_gpu(GPUS["A100-40GB"], observer=ledger):
        assert torch.cuda.is_available()
    assert (torch.cuda.is_available, torch.is_autocast_enabled, torch.clear_autocast_cache) == before
    assert not torch.cuda.is_available()


def test_a_full_device_is_an_error_and_the_program_may_go_on():
    small = GPUS["A100-40GB"].with_memory(64 * MIB, "small", "test")
    with simulated_gpu(small):
        held = torch.empty(40 * MIB, dtype=torch.uint8, device="cuda")
        with pytest.raises(DeviceOutOfMemory, match=r"40\.00 MiB"):
            torch.empty(40 * MIB, dtype=torch.uint8, device="cuda")
        del held
        torch.empty(40 * MIB, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_keeps_only_the_input_of_a_block(use_reentrant, cuda, ledger):
    rows, width = 64, 256
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Sigmoid()) for _ in range(4)).to(cuda)
    x = torch.empty(rows, width, device=cuda, requires_grad=True)
    blocks[0](x)  # the cuBLAS workspace of this thread
    before, activation_bytes = ledger.live_bytes, 4 * rows * width
    h = x
    for block in blocks:
        h = checkpoint(block, h, use_reentrant=use_reentrant)
    assert ledger.live_bytes - before == 4 * activation_bytes  # one output per block, no linear output
    h.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None for p in blocks.parameters())


def test_values_of_the_device_are_unsupported_with_the_users_line(cuda):
    loss = torch.empty(4, device=cuda).sum()
    with pytest.raises(
        UnsupportedOperation, match=r"_local_scalar_dense.*test_cuda_names\.py:\d+: loss\.item"
    ):
        loss.item()
    with pytest.raises(UnsupportedOperation, match="nonzero"):
        (torch.empty(4, device=cuda) > 0).nonzero()
    with pytest.raises(UnsupportedOperation, match="copy_"):
        loss.cpu()
    assert "size=(4,)" in repr(torch.empty(4, device=cuda))


def test_a_float_may_be_given_a_value():
    with simulated_gpu(GPUS["A100-40GB"], reads=AssumedReads(2.5)):
        assert torch.empty(4, device="cuda").sum().item() == 5.0  # falls from twice


def test_integers_and_masks_keep_their_values(cuda):
    ids = torch.arange(6, device=cuda).view(2, 3)
    mask = ids % 2 == 0
    assert ids[1].tolist() == [3, 4, 5]
    assert mask.sum().item() == 3
    assert mask.nonzero().shape == (3, 2)
    assert torch.empty(2, 3, 5, device=cuda)[mask].shape == (3, 5)
    assert not mask.all()
    ids[0] = 7
    ids[1, 2] += 1
    assert ids.cpu().tolist() == [[7, 7, 7], [3, 4, 6]]
    unknown = torch.empty(6, device=cuda) > 0
    with pytest.raises(UnsupportedOperation):
        unknown.any().item()


def test_mistakes_are_reported_as_on_cuda(cuda):
    x = torch.empty(8, 16, device=cuda)
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu"):
        x + torch.zeros(8, 16)
    with pytest.raises(RuntimeError, match="reduction dim"):
        x @ x
    with pytest.raises(UnsupportedOperation, match="_to_sparse"):
        x.to_sparse()


def test_blocks_of_an_earlier_device_do_not_disturb_a_later_one(ledger):
    with simulated_gpu(GPUS["A100-40GB"]) as device:
        old = torch.ones(4, dtype=torch.long, device=device)
    with simulated_gpu(GPUS["A100-40GB"], observer=ledger) as device:
        new = torch.full((4,), 7, device=device)
        assert new.data_ptr() == old.data_ptr()
        del old
        assert new.tolist() == [7, 7, 7, 7]
        assert ledger.live == {new.data_ptr(): 32}


def test_running_full_in_backward_raises_and_frees_the_graph(ledger, collect_error):
    small = GPUS["A100-40GB"].with_memory(64 * MIB, "small", "test")
    with simulated_gpu(small, observer=ledger):
        x = torch.zeros(3 * MIB, device="cuda", requires_grad=True)  # 12 MiB
        y = x.sigmoid().sigmoid().sigmoid()  # 48 MiB in all
        with pytest.raises(DeviceOutOfMemory):
            y.sum().backward()
        del y
        collect_error(x.device)
        assert list(ledger.live.values()) == [12 * MIB]
