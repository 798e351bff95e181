"""The simulated GPU: its place in PyTorch and its life."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from profiler.gpu.allocator import AllocatorSettings, CachingAllocator, SegmentEvent
from profiler.gpu.cards import DEFAULT_GPU, GPU, GPUS
from profiler.gpu.simulated import kernel_bindings, operations
from profiler.gpu.simulated.cuda_names import cuda_names
from profiler.gpu.simulated.dispatch import Machine, opened
from profiler.gpu.simulated.tensors.assumed import AssumedReads
from profiler.gpu.simulated.tensors.host_values import HostValues
from profiler.gpu.simulated.tensors.storage import Allocator, DeviceMemory, Observer
from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE


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


def register() -> None:
    """Take PyTorch's PrivateUse1 slot. Idempotent; must come before the first `backward()` of the process.

    Raises RuntimeError if another backend has the slot, or the autograd engine has already started its
    threads (it starts one per device, once).
    """
    global _registered  # noqa: PLW0603  PyTorch's slot is global to the process too
    if _registered:
        return
    name = torch._C._get_privateuse1_backend_name()
    if name != "privateuseone":
        raise RuntimeError(f"PyTorch's PrivateUse1 slot is already taken by {name!r}: run in a fresh process")
    _setup_privateuseone_for_python_backend(DEVICE_TYPE, backend_module=_Backend())
    operations.register_operations()
    _start_autograd_thread()
    _registered = True


def _start_autograd_thread() -> None:
    """A first backward on the device: the engine starts its threads here, or shows that it has
    none for us.
    """
    with _opened(_EmptyAllocator(), _Silence(), GPUS[DEFAULT_GPU]):
        leaf = torch.empty((0,), device=DEVICE_TYPE, requires_grad=True)
        try:
            (leaf + leaf).sum().backward()
        except RuntimeError as error:
            if "device_ready_queues_" not in str(error):
                raise
            message = (
                "backward() ran before the simulated GPU existed, and autograd starts its threads only once"
            )
            raise RuntimeError(
                f"{message}: open the simulated GPU earlier, or run in a fresh process"
            ) from error


class _EmptyAllocator:
    """Addresses for the few bytes of the first backward."""

    def malloc(self, size_bytes: int, stream: int = 0) -> int:
        return 512

    def free(self, address: int) -> None:
        pass

    def block_size(self, address: int) -> int:
        return 512


class _Silence:
    def allocated(self, address: int, size_bytes: int, requested_bytes: int, op: str) -> None:
        pass

    def freed(self, address: int) -> None:
        pass

    def refused(self, requested_bytes: int, op: str) -> None:
        pass


@contextmanager
def _opened(
    allocator: Allocator,
    observer: Observer,
    gpu: GPU,
    torch_version: tuple[int, int] | None = None,
    reads: AssumedReads | None = None,
) -> Iterator[None]:
    values = HostValues(assumes=reads is not None)
    memory = DeviceMemory(allocator, observer, values.forget)
    version = torch_version or _installed_version()
    scratch_of = kernel_bindings.HiddenAllocations(gpu, version).of
    with opened(Machine(memory, values, reads, gpu.capability, version, scratch_of)):
        yield


def _installed_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


@contextmanager
def bare_device(
    gpu: GPU, allocator: Allocator, observer: Observer, reads: AssumedReads | None = None
) -> Iterator[torch.device]:
    """The device under its own name, `simgpu`, over any allocator: for tests and tools of the
    simulation itself.
    """
    register()
    with _opened(allocator, observer, gpu, reads=reads):
        yield torch.device(DEVICE_TYPE, 0)


@contextmanager
def simulated_gpu(
    gpu: GPU,
    settings: AllocatorSettings | None = None,
    observer: Observer | None = None,
    reads: AssumedReads | None = None,
    torch_version: tuple[int, int] | None = None,
    on_segment_event: Callable[[SegmentEvent], None] | None = None,
    beside_bytes: int = 0,
) -> Iterator[torch.device]:
    """Run CUDA training code on a simulated `gpu`: nothing is allocated or computed, every block is reported.

    Inside the context `"cuda"` means the simulated device, which is also yielded, and `torch.cuda` answers
    for it. `observer` hears of each allocation and free in order, `on_segment_event` of what the allocator
    takes from the driver for it before, and gives back.

    Values of small integer and boolean tensors are known. `reads` answers a program that reads others, to
    log its loss, to see whether it is finite, or to scale by a norm (torch.optim.Adafactor), and
    knows afterwards what it read; without it such a read is unsupported.

    `torch_version` is the PyTorch whose CUDA kernels take the scratch memory, (major, minor); the
    installed one if not given. The operations themselves are always those of the installed PyTorch.
    `beside_bytes` is what the process has of the GPU's memory beside its allocator's: the CUDA context.

    Raises torch.OutOfMemoryError where the GPU would be full, UnsupportedOperation where the program needs
    values that the simulation does not have.
    """
    register()
    settings = settings or AllocatorSettings()
    version = torch_version or _installed_version()
    allocator = CachingAllocator(
        max(gpu.memory_bytes - beside_bytes, 0),
        settings,
        on_segment_event=on_segment_event,
        oldest_first=version >= (2, 12),
    )
    with (
        _opened(allocator, observer or _Silence(), gpu, torch_version, reads),
        cuda_names(gpu, allocator) as device,
    ):
        yield device
