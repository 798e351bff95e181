"""The simulated GPU: its place in PyTorch and its life."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from profiler.simulation import kernels as kernels_module
from profiler.simulation.dispatch import DEVICE_TYPE, machine
from profiler.simulation.storage import Allocator, DeviceMemory, Observer


class _Backend:
    """The module `torch.simgpu`: what PyTorch asks of any accelerator."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)  # seed and offset, on the host

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16, torch.float32]


_registered = False


def _register() -> None:
    global _registered  # noqa: PLW0603  PyTorch's slot is global to the process too
    if _registered:
        return
    name = torch._C._get_privateuse1_backend_name()
    if name != "privateuseone":
        raise RuntimeError(f"PyTorch's PrivateUse1 slot is already taken by {name!r}: run in a fresh process")
    _setup_privateuseone_for_python_backend(DEVICE_TYPE, backend_module=_Backend())
    kernels_module.register()
    _registered = True


@contextmanager
def bare_device(allocator: Allocator, observer: Observer) -> Iterator[torch.device]:
    """The device without the `cuda` names: tensors on `simgpu`."""
    if machine.memory is not None:
        raise RuntimeError("a simulated GPU is already open in this process")
    _register()
    memory = machine.memory = DeviceMemory(allocator, observer)
    try:
        yield torch.device(DEVICE_TYPE, 0)
    finally:
        memory.close()
        machine.memory = None
