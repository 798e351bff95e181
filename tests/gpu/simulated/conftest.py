"""A simulated device, bare or under the name cuda, and the ledger of what it reports."""

import gc
from collections.abc import Callable, Iterator

import pytest
import torch

from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import bare_device, simulated_gpu
from tests.support.recorded.blocks import BumpAllocator, Ledger


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def bare(ledger: Ledger) -> Iterator[torch.device]:
    """The device `simgpu` without CUDA's names, an A100."""
    with bare_device(GPUS["A100-40GB"], BumpAllocator(), ledger) as device:
        yield device


@pytest.fixture
def cuda(ledger: Ledger) -> Iterator[torch.device]:
    """A simulated A100 under the name cuda."""
    with simulated_gpu(GPUS["A100-40GB"], observer=ledger) as device:
        yield device


@pytest.fixture
def collect_error() -> Callable[[torch.device], None]:
    """What an error in backward() held dies: its traceback refers to itself, and autograd's thread for the
    device lets go of it only after it has woken the one that waits.

    In 126 of 400 tries a collection came too early; after a next backward pass, here of no bytes, in none.
    """

    def collect(device: torch.device) -> None:
        nothing = torch.empty((0,), device=device, requires_grad=True)
        (nothing * 1).backward(torch.empty((0,), device=device))
        gc.collect()

    return collect
