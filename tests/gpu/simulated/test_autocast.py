"""Autocast: which operations cast, and the cache of cast weights."""

import pytest
import torch
from torch import nn

from profiler.gpu.simulated import autocast
from tests.support.recorded.blocks import cpu_events

W = 256 * 512


def test_every_operation_with_a_cuda_autocast_kernel_has_one_here():
    on_cuda = {
        name.removeprefix("aten::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA")
    }
    ours = {
        *autocast.LOWER_PRECISION,
        *autocast.FLOAT32,
        *autocast.FLOAT32_OUTPUT,
        *autocast.FLOAT32_APPENDED,
        *autocast.WIDEST,
        "binary_cross_entropy",
    }
    assert len(on_cuda) > 100
    # Named dimensions and the cuDNN RNN, on the lists of older versions, do not run here.
    assert {name for name in on_cuda - ours if "imname" not in name and "names_" not in name} <= {
        "_cudnn_rnn"
    }
    assert ours - on_cuda <= {"rms_norm", "linalg_matrix_sqrth"}  # newer than 2.11 and 2.13


def test_an_operation_that_torch_does_not_cast_on_cuda_is_not_cast_here(cuda):
    casts = torch._C._dispatch_has_kernel_for_dispatch_key("aten::rms_norm", "AutocastCUDA")  # not in 2.11
    x = torch.empty(4, 256, device=cuda, dtype=torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        result = nn.functional.rms_norm(x, (256,))
    assert result.dtype == (torch.float32 if casts else torch.bfloat16)


def test_a_weight_is_cast_once_per_region_and_the_cast_dies_with_the_region(cuda, ledger):
    layer = nn.Linear(256, 512, bias=False).to(cuda)
    x = torch.empty(4, 256, device=cuda, dtype=torch.bfloat16)
    ledger.clear()
    with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
        layer(x), layer(x)
        casts = [size for size in ledger.events if size == 2 * W]
        assert casts == [2 * W]
        assert 2 * W in ledger.live.values()
    assert 2 * W not in ledger.live.values()


def test_the_cast_weight_is_kept_for_backward(cuda, ledger):
    first, second = nn.Linear(256, 512, bias=False).to(cuda), nn.Linear(512, 256, bias=False).to(cuda)
    x = torch.empty(4, 256, device=cuda)
    with torch.autocast("cuda", torch.bfloat16):
        loss = second(first(x)).sum()
    # the first weight's cast served only the gradient of an input that needs none
    assert list(ledger.live.values()).count(2 * W) == 1
    loss.backward()
    assert 2 * W not in ledger.live.values()
    assert first.weight.grad.dtype == torch.float32


def test_types_follow_the_lists(cuda):
    x = torch.empty(8, 8, device=cuda)
    half = torch.empty(8, 8, device=cuda, dtype=torch.float16)
    with torch.autocast("cuda"):
        assert (x @ x).dtype == torch.float16  # CUDA's default
        assert half.softmax(-1).dtype == torch.float32
        assert half.sum().dtype == torch.float32
        assert half.pow(2).dtype == torch.float32
        assert half.norm().dtype == torch.float32
        assert (half + half).dtype == torch.float16
        assert torch.addcmul(half, x, x).dtype == torch.float32
        assert nn.functional.layer_norm(half, (8,)).dtype == torch.float32
        with torch.autocast("cuda", enabled=False):
            assert (x @ x).dtype == torch.float32
    assert (x @ x).dtype == torch.float32
    assert not torch.is_autocast_enabled("cuda")


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("operation", ["addmm", "mm"])
def test_casts_come_and_go_in_the_order_of_the_compiled_kernels(operation, grad, cuda, ledger):
    """The CPU's autocast kernels are the same templates, built by the same compiler: a real run tells."""

    def step(device):
        bias, x = torch.zeros(16, device=device), torch.zeros(4, 32, device=device)
        weight = torch.zeros(32, 16, device=device, requires_grad=True)
        operands = (bias, x, weight) if operation == "addmm" else (x, weight)

        def run():
            with grad(), torch.autocast(torch.device(device).type, torch.bfloat16):
                getattr(torch, operation)(*operands)

        return run

    on_cpu, on_device = step("cpu"), step("cuda")
    on_device()  # the cuBLAS workspace
    ledger.clear()
    on_device()
    casts_and_result = {"addmm": 4, "mm": 3}[operation]
    assert len(ledger.events) == 2 * casts_and_result
    assert ledger.events == cpu_events(on_cpu)
