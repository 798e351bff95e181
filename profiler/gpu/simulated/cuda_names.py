"""Inside this context the simulated device answers to the name `cuda`, so that CUDA programs run unchanged.

In C++ the device is `simgpu`. A TorchFunctionMode translates the names at the border of Python: devices
that go in, devices that come out. It stands above autograd and, unlike a dispatch mode, does not change
how gradients are accumulated (torch/csrc/utils TensorSubclassLike looks at dispatch modes only).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from profiler.gpu.allocator import CachingAllocator
from profiler.gpu.cards import GPU
from profiler.gpu.patched import Patch, patched
from profiler.gpu.simulated import autocast
from profiler.gpu.simulated.cuda_functions import device_functions, memory_functions
from profiler.gpu.simulated.cuda_libraries import files_of_tensors, library_patches
from profiler.gpu.simulated.cuda_translation import CUDA, CudaNames, may_set_data
from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE


def _for_cuda(function: Callable[..., Any]) -> Callable[..., Any]:
    """An autocast query or setter, with the simulated device where it is asked about CUDA."""

    def translated(*args: Any) -> Any:
        return function(*[DEVICE_TYPE if a == "cuda" else a for a in args])

    return translated


_AUTOCAST_FUNCTIONS = (
    "is_autocast_enabled",
    "set_autocast_enabled",
    "get_autocast_dtype",
    "set_autocast_dtype",
)


def _clear_autocast_cache() -> None:
    autocast.clear_cache()
    torch._C.clear_autocast_cache()


@contextmanager
def cuda_names(gpu: GPU, allocator: CachingAllocator) -> Iterator[torch.device]:
    """Let `torch.cuda`, autocast, GradScaler and every device argument mean the simulated device."""
    patches: list[Patch] = []
    for name, function in {**memory_functions(allocator, gpu), **device_functions(gpu)}.items():
        owners = (torch.cuda, torch.cuda.memory)
        patches += [(owner, name, function) for owner in owners if hasattr(owner, name)]
    for name in _AUTOCAST_FUNCTIONS:
        patches.append((torch, name, _for_cuda(getattr(torch, name))))
    patches += [
        (torch, "clear_autocast_cache", _clear_autocast_cache),
        (torch, "_has_compatible_shallow_copy_type", may_set_data),
        # A torch built with CUDA would ask its driver for a recurrent layer's one buffer of weights.
        (torch.backends.cudnn, "is_acceptable", lambda tensor: False),
    ]
    patches += library_patches()
    torch.set_autocast_dtype(DEVICE_TYPE, torch.float16)  # CUDA's default
    try:
        with patched(patches), CudaNames(), files_of_tensors():
            yield CUDA
    finally:
        autocast.clear_cache()
