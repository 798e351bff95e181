"""Storages die when their last owner lets go, and autograd runs as it does on a real device."""

import subprocess
import sys
import textwrap

import pytest
import torch

from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import bare_device
from profiler.gpu.simulated.tensors.unsupported import UnsupportedOperation
from tests.support.recorded.blocks import BumpAllocator

KB = 1024


def tensor(size, device, **options):
    return torch.empty(size, device=device, **options)


def test_tensors_are_plain_and_their_pointer_is_the_simulated_address(bare, ledger):
    x = tensor((2, 128), bare)
    assert type(x) is torch.Tensor
    assert [x.data_ptr()] == list(ledger.live)
    assert x[1].data_ptr() == x.data_ptr() + 512


def test_a_view_keeps_the_storage_until_the_last_one_dies(bare, ledger):
    x = tensor((256,), bare)
    row = x.view(4, 64)[1]
    del x
    assert ledger.events == [KB]
    del row
    assert ledger.events == [KB, -KB]


def test_residual_gradients_are_accumulated_in_place(bare, ledger):
    """Two consumers of h: the second gradient is added into the first, no third tensor appears."""
    h = tensor((256,), bare, requires_grad=True) * 2
    loss = (h.relu() + h.sigmoid()).sum()
    before = len(ledger.ops)
    loss.backward()
    backward = ledger.ops[before:]
    # ones for the loss; the sum's gradient is an expanded view; relu; sigmoid; then the gradient of `* 2`
    assert backward == [
        "aten::empty_strided",
        "aten::sigmoid_backward",
        "aten::threshold_backward",
        "aten::mul",
    ]


def test_a_gradient_is_stolen_not_copied(bare, ledger):
    weight = tensor((256, 128), bare, requires_grad=True)
    x = tensor((64, 256), bare)
    loss = (x @ weight).sum()
    ledger.clear()
    loss.backward()
    assert ledger.events.count(256 * 128 * 4) == 1
    assert weight.grad.data_ptr() in ledger.live


def test_a_second_micro_batch_adds_in_place(bare, ledger):
    weight = tensor((256, 128), bare, requires_grad=True)
    x = tensor((64, 256), bare)
    (x @ weight).sum().backward()
    address = weight.grad.data_ptr()
    (x @ weight).sum().backward()
    assert weight.grad.data_ptr() == address
    assert ledger.live_bytes == 2 * weight.nbytes + x.nbytes + workspaces(ledger)


def workspaces(ledger):
    return sum(size for size in ledger.live.values() if size == 8_519_680)


def test_saved_tensors_die_node_by_node_during_backward(bare, ledger):
    """sigmoid saves its result, which only the graph holds: each dies before the next gradient is born."""
    x = tensor((256,), bare, requires_grad=True)
    y = x.sigmoid().sigmoid().sigmoid().sum()
    assert ledger.events == [KB, KB, KB, KB, 4]
    ledger.clear()
    y.backward()
    # ones; gradient of sigmoid 3; its saved result dies; gradient of sigmoid 2; the consumed gradient and
    # result die
    assert ledger.events == [4, KB, -KB, KB, -KB, -KB, KB, -KB, -KB, -4]


def test_a_tensor_owned_only_by_the_graph_dies_with_the_graph(bare, ledger):
    x = tensor((256,), bare, requires_grad=True)
    y = x.sigmoid().sum()
    assert ledger.live_bytes == 2 * KB + 4
    del y
    assert ledger.live_bytes == KB


def test_storages_that_die_under_an_exception_are_reported(bare, ledger, collect_error):
    """Unwinding frees saved tensors while Python has an error set."""

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            held = [torch.empty(256, device=grad.device) for _ in range(3)]
            raise ValueError(f"{len(held)} tensors on the stack")

    y = Fails.apply(tensor((256,), bare, requires_grad=True).sigmoid()).sum()
    with pytest.raises(ValueError, match="3 tensors on the stack") as raised:
        y.backward()
    del y, raised
    collect_error(bare)
    assert ledger.live_bytes == 0


def test_use_outside_of_the_context_is_an_error_and_late_deaths_are_silent(ledger):
    with bare_device(GPUS["A100-40GB"], BumpAllocator(), ledger) as device:
        x = torch.empty(256, device=device)
        with (
            pytest.raises(RuntimeError, match="already open"),
            bare_device(GPUS["A100-40GB"], BumpAllocator(), ledger),
        ):
            pass
    with pytest.raises(UnsupportedOperation, match="the simulated GPU is closed"):
        x + 1
    del x
    assert ledger.events == [KB]


def run_script(script):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )


def test_the_process_ends_cleanly_with_tensors_alive():
    done = run_script("""
        from profiler.gpu.cards import GPUS
        from profiler.gpu.simulated.device import simulated_gpu
        import torch
        context = simulated_gpu(GPUS["A100-40GB"])
        device = context.__enter__()
        model = torch.nn.Linear(8, 8).cuda()
        loss = model(torch.randn(4, 8, device="cuda")).sigmoid().sum()
        print("end")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_backward_before_the_device_exists_is_explained():
    done = run_script("""
        import torch
        from profiler.gpu.simulated.device import register
        torch.ones(2, requires_grad=True).sum().backward()
        register()
    """)
    assert done.returncode == 1
    assert "RuntimeError: backward() ran before the simulated GPU existed" in done.stderr
