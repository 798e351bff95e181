"""Operations that CUDA answers with kernels of its own: their blocks, in order, worked out by hand."""

import inspect

import pytest
import torch
from torch.nn import functional as F

from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import simulated_gpu


def test_ctc_loss_keeps_log_alpha(cuda, ledger):
    """20 frames, 2 sequences, 5 labels, targets of up to 3: 7 states. Three int64 a sequence come and go."""
    log_probs = torch.empty(20, 2, 5, device=cuda, requires_grad=True)
    targets = torch.ones(2, 3, dtype=torch.long, device=cuda)
    ledger.clear()
    loss = F.ctc_loss(log_probs, targets, (20, 15), (3, 2), reduction="sum")
    log_alpha = 4 * 2 * 20 * 7
    assert ledger.events[:5] == [16, 16, 16, log_alpha, 8]
    ledger.clear()
    loss.backward()
    grown = [size for size in ledger.events if size > 0]
    assert grown == [4, 16, 16, 16, log_alpha, 4 * 20 * 2 * 5]  # ones, lengths, log_beta, the gradient


def test_ctc_loss_of_a_large_problem_takes_the_blanks_apart(cuda, ledger):
    """2 x 300 frames > 450: the sum of log_alpha and log_beta at the 4 blanks of 7 states."""
    log_probs = torch.empty(300, 2, 5, device=cuda, requires_grad=True)
    targets = torch.ones(2, 3, dtype=torch.long, device=cuda)
    loss = F.ctc_loss(log_probs, targets, (300, 300), (3, 3), reduction="sum")
    ledger.clear()
    loss.backward()
    assert 4 * 2 * 300 * 4 in ledger.events


def test_masked_select_takes_the_positions_of_its_mask(cuda, ledger):
    x = torch.empty(4, 6, device=cuda)
    mask = torch.zeros(6, dtype=torch.bool, device=cuda)
    mask[:2] = True
    ledger.clear()
    assert x.masked_select(mask).shape == (8,)
    # nonzero: the mask as large as x, a count, reduce storage, 8 positions of 2 indices, selection storage;
    # then the result
    assert [size for size in ledger.events if size > 0] == [4 * 6, 4, 1, 8 * 2 * 8, 1023, 4 * 8]


@pytest.mark.parametrize(
    ("gpu", "dtype", "workspaces"),
    [("A100-40GB", torch.bfloat16, 1), ("H100-80GB", torch.bfloat16, 0), ("H100-80GB", torch.float32, 1)],
)
def test_a_grouped_product_pads_its_rows_to_16_bytes(gpu, dtype, workspaces, ledger):
    """[10, 16] tokens of 3 groups by [3, 16, 9]: rows of 9 in steps of 16 or 12. CUTLASS, for bfloat16 on
    Hopper, takes no cuBLAS workspace.
    """
    with simulated_gpu(GPUS[gpu], observer=ledger) as device:
        tokens = torch.empty(10, 16, dtype=dtype, device=device)
        weights = torch.empty(3, 16, 16, dtype=dtype, device=device)[..., :9]
        ends = torch.tensor([4, 7, 10], dtype=torch.int32, device=device)
        ledger.clear()
        out = F.grouped_mm(tokens, weights, offs=ends)
    columns = 16 if dtype == torch.bfloat16 else 12
    assert (out.shape, out.stride()) == ((10, 9), (columns, 1))
    assert ledger.events[0] == (9 * columns + 9) * dtype.itemsize
    assert sum("workspace" in op for op in ledger.ops) == workspaces


def test_a_fused_step_allocates_nothing(cuda, ledger):
    weight = torch.nn.Parameter(torch.empty(64, 64, device=cuda))
    weight.grad = torch.empty_like(weight)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD([weight], 0.1, momentum=0.9, fused=True)]
    if "cuda_unsupported=True" not in inspect.getsource(torch.optim.Adagrad):  # torch 2.11 refuses
        optimizers.append(torch.optim.Adagrad([weight], fused=True))
    for optimizer in optimizers:
        optimizer.step()
        ledger.clear()
        optimizer.step()
        assert ledger.events == []
