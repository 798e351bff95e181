"""A simulated device, bare or under the name cuda, and the ledger of what it reports."""

from collections.abc import Iterator

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
