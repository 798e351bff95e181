"""Bytes of optimizer states and of the step's temporaries, against closed forms."""

import inspect

import bitsandbytes
import pytest
import torch
from torch import nn

from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import simulated_gpu
from profiler.gpu.simulated.tensors.assumed import AssumedReads
from profiler.gpu.simulated.tensors.unsupported import UnsupportedOperation

# Two Linear layers, 256 -> 512 -> 256: numbers of elements of their parameters.
SHAPES = (512 * 256, 512, 256 * 512, 256)
PARAMETER_BYTES = 4 * sum(SHAPES)
LARGEST_BYTES = 4 * max(SHAPES)


def state_8bit(elements):
    """Two byte states and two float32 maxima per block of 256; float32 states for small tensors."""
    if elements < 4096:
        return 2 * 4 * elements
    return 2 * elements + 2 * 4 * -(-elements // 256)


# name: (optimizer, bytes of state, most bytes of temporaries in a later step)
CASES = {
    "sgd": (lambda p: torch.optim.SGD(p, 0.1), 0, 0),
    "sgd momentum": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), PARAMETER_BYTES, 0),
    # foreach, the default on CUDA: the square roots of all second moments at once
    "adam": (torch.optim.Adam, 2 * PARAMETER_BYTES, PARAMETER_BYTES),
    "adamw": (torch.optim.AdamW, 2 * PARAMETER_BYTES, PARAMETER_BYTES),
    # one parameter at a time: its square root and the quotient, while the bias before still has its quotient
    "adamw loop": (
        lambda p: torch.optim.AdamW(p, foreach=False),
        2 * PARAMETER_BYTES,
        2 * LARGEST_BYTES + 4 * SHAPES[1],
    ),
    # fused: the step counters move to the device, and nothing is temporary
    "adam fused": (lambda p: torch.optim.Adam(p, fused=True), 2 * PARAMETER_BYTES + 4 * len(SHAPES), 0),
    "adamw fused": (lambda p: torch.optim.AdamW(p, fused=True), 2 * PARAMETER_BYTES + 4 * len(SHAPES), 0),
    "sgd fused": (lambda p: torch.optim.SGD(p, 0.1, fused=True), 0, 0),
    "sgd momentum fused": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True), PARAMETER_BYTES, 0),
    # and the table of 256 quantised values, twice, shared by all parameters
    "adam 8 bit": (
        bitsandbytes.optim.Adam8bit,
        sum(map(state_8bit, SHAPES)) + 2 * 4 * 256,
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_states_and_temporaries(name, cuda, ledger):
    make, state_bytes, temporary_bytes = CASES[name]
    model = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256)).to(cuda)
    optimizer = make(model.parameters())
    before = {}
    for step in range(2):
        model(torch.zeros(4, 256, device=cuda)).sum().backward()
        before[step] = ledger.live_bytes
        ledger.clear()
        optimizer.step()
        if step == 0:
            assert ledger.live_bytes - before[0] == state_bytes
        optimizer.zero_grad()
    assert ledger.live_bytes == before[1] - PARAMETER_BYTES
    assert ledger.peak_bytes - before[1] == temporary_bytes


# The other optimizers of torch.optim that take any parameter: (settings, states as large as the parameter,
# scalars on the device for each parameter), read off their sources.
STATES = {
    "ASGD": ({}, 1, 3),  # ax; eta, mu and step
    "Adadelta": ({}, 2, 0),
    "Adagrad": ({}, 1, 0),
    "Adagrad fused": ({"fused": True}, 1, 1),
    "Adam amsgrad": ({"amsgrad": True}, 3, 0),
    "Adamax": ({}, 2, 0),
    "NAdam": ({}, 2, 0),
    "NAdam capturable": ({"capturable": True}, 2, 2),  # step and mu_product
    "RAdam": ({}, 2, 0),
    "RMSprop": ({}, 1, 0),
    "RMSprop centered": ({"centered": True, "momentum": 0.9}, 3, 0),
    "Rprop": ({}, 2, 0),
}


@pytest.mark.parametrize("name", STATES)
def test_states_of_the_other_optimizers(name, cuda, ledger):
    if name == "Adagrad fused" and "cuda_unsupported=True" in inspect.getsource(torch.optim.Adagrad):
        pytest.skip("this torch refuses fused Adagrad on CUDA")
    settings, copies, scalars = STATES[name]
    model = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256)).to(cuda)
    model(torch.zeros(4, 256, device=cuda)).sum().backward()
    before = ledger.live_bytes
    optimizer = getattr(torch.optim, name.split()[0])(model.parameters(), lr=0.1, **settings)
    for _ in range(2):
        optimizer.step()
        assert ledger.live_bytes - before == copies * PARAMETER_BYTES + 4 * scalars * len(SHAPES)


def test_muon_keeps_one_momentum_of_matrices(cuda, ledger):
    model = nn.Linear(256, 512, bias=False).to(cuda)
    optimizer = torch.optim.Muon(model.parameters())
    model(torch.zeros(4, 256, device=cuda)).sum().backward()
    before = ledger.live_bytes
    optimizer.step()
    assert ledger.live_bytes - before == 4 * 256 * 512


def test_an_optimizer_that_branches_on_values_says_so_in_one_line(cuda):
    model = nn.Linear(8, 4).to(cuda)
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(torch.zeros(2, 8, device=cuda)).sum()
        loss.backward()
        return loss

    with pytest.raises(UnsupportedOperation, match="needs values of the device") as caught:
        optimizer.step(closure)
    assert "\n" not in str(caught.value)


def test_adafactor_keeps_rows_and_columns(ledger):
    """It reads norms on the host, whose values the caller states."""
    with simulated_gpu(GPUS["A100-40GB"], observer=ledger, reads=AssumedReads(1.0)) as device:
        model = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256)).to(device)
        optimizer = torch.optim.Adafactor(model.parameters())
        model(torch.zeros(4, 256, device=device)).sum().backward()
        before = ledger.live_bytes
        optimizer.step()
        matrices, vectors = 2 * (512 + 256), 512 + 256
        assert ledger.live_bytes - before == 4 * (matrices + vectors)


def test_zero_grad_frees_the_gradients_or_keeps_them(cuda, ledger):
    model = nn.Linear(256, 512).to(cuda)
    model(torch.zeros(4, 256, device=cuda)).sum().backward()
    held = ledger.live_bytes
    model.zero_grad(set_to_none=False)
    assert ledger.live_bytes == held
    model.zero_grad()
    assert held - ledger.live_bytes == 4 * (512 * 256 + 512)


def test_clipping_goes_through_foreach_norm(cuda, ledger):
    """Partial norms of all chunks first, then one scalar per tensor; the gradients are scaled in place."""
    model = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256)).to(cuda)
    model(torch.zeros(4, 256, device=cuda)).sum().backward()
    ledger.clear()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    chunks = -(-(512 * 256) // 65536)
    partial_bytes = 4 * chunks * len(SHAPES)
    assert ledger.events[:6] == [partial_bytes, 4, 4, 4, 4, -partial_bytes]
    assert max(ledger.events) == partial_bytes


def test_the_gradient_scaler_sees_no_overflow_and_steps(cuda, ledger):
    model = nn.Linear(256, 512).to(cuda)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cuda")
    with torch.autocast("cuda", torch.float16):
        loss = model(torch.zeros(4, 256, device=cuda)).float().sum()
    scaler.scale(loss).backward()
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    scaler.step(optimizer)
    scaler.update()
    assert steps == [1]
    assert scaler.get_scale() == 65536.0
