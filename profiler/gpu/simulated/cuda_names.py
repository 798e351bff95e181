"""Inside this context the simulated device answers to the name `cuda`, so that CUDA programs run unchanged.

In C++ the device is `simgpu`. A TorchFunctionMode translates the names at the border of Python: devices
that go in, devices that come out. It stands above autograd and, unlike a dispatch mode, does not change
how gradients are accumulated (torch/csrc/utils TensorSubclassLike looks at dispatch modes only).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from profiler.gpu.allocator import CachingAllocator
from profiler.gpu.capability import REGISTERS_PER_SM, SHARED_PER_BLOCK_BYTES, WARP_THREADS
from profiler.gpu.cards import GPU
from profiler.gpu.simulated import autocast
from profiler.gpu.simulated.outputs import DEVICE_TYPE
from profiler.gpu.simulated.unsupported import UnsupportedOperation

_SIMULATED = f"{DEVICE_TYPE}:0"
_NAMES_OF_DEVICES = (torch.device, str)
_CUDA = torch.device("cuda", 0)


def _to_simulated(value: Any) -> Any:
    """`value`, or the simulated device where it names CUDA's. Raises RuntimeError for a second GPU."""
    if isinstance(value, torch.device):
        if value.type != "cuda":
            return value
        index = value.index
    elif isinstance(value, str):
        if value != "cuda" and not value.startswith("cuda:"):
            return value
        index = torch.device(value).index
    else:
        return value
    if index not in (None, 0):
        raise RuntimeError(f"CUDA error: invalid device ordinal {index}; one GPU is simulated")
    return _SIMULATED


def _device_of(value: Any) -> Any:
    return _to_simulated(f"cuda:{value}" if isinstance(value, int) and not isinstance(value, bool) else value)


def _to_cuda(
    tensor: torch.Tensor, device: Any = None, non_blocking: bool = False, **options: Any
) -> torch.Tensor:
    return tensor.to(
        _SIMULATED if device is None else _device_of(device), non_blocking=non_blocking, **options
    )


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if args and isinstance(args[0], int):
        args = (_device_of(args[0]), *args[1:])
    return tensor.to(*args, **kwargs)


def _device(tensor: torch.Tensor) -> torch.device:
    device = tensor.device
    return _CUDA if device.type == DEVICE_TYPE else device


def _is_cuda(tensor: torch.Tensor) -> bool:
    return tensor.device.type == DEVICE_TYPE


def _repr(tensor: torch.Tensor, **options: Any) -> str:
    if tensor.device.type != DEVICE_TYPE:
        return repr(tensor)
    return f"tensor(<simulated>, size={tuple(tensor.shape)}, device='cuda:0', dtype={tensor.dtype})"


def _set_data(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """`parameter.data = moved`, by which modules move: between host and device the tensors change places."""
    if tensor.device.type == data.device.type:
        tensor.data = data
    else:
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        moved = torch.nn.Parameter(data, tensor.requires_grad) if is_parameter else data
        torch.utils.swap_tensors(tensor, moved)


_compatible = torch._has_compatible_shallow_copy_type


def _may_set_data(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    """Also between the host and CUDA: that is how the parameters of a moved module stay the same objects."""
    return {tensor.device.type, data.device.type} == {"cpu", "cuda"} or _compatible(tensor, data)


_REPLACED: dict[Any, Callable[..., Any]] = {
    torch.Tensor.cuda: _to_cuda,
    torch.Tensor.to: _to,
    torch.Tensor.__repr__: _repr,
    torch.Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    torch.Tensor.device.__get__: _device,
    torch.Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
    torch.Tensor.pin_memory: lambda tensor, device=None: tensor,  # host memory only
    torch.Tensor.is_pinned: lambda tensor, device=None: False,
    torch.Tensor.record_stream: lambda tensor, stream: None,  # one stream
}


class _CudaNames(TorchFunctionMode):
    """Names of devices, translated in both directions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        for argument in args:  # nearly every call has none: no copy of the arguments is made
            if isinstance(argument, _NAMES_OF_DEVICES):
                args = tuple([_to_simulated(a) for a in args])
                break
        if kwargs:
            kwargs = {
                name: _device_of(value) if name == "device" else _to_simulated(value)
                for name, value in kwargs.items()
            }
        replaced = _REPLACED.get(func)
        return (replaced or func)(*args, **(kwargs or {}))


class _Stream:
    """The one stream of the device."""

    cuda_stream = stream_id = device_index = 0
    device = _CUDA

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def synchronize(self) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Any = None) -> "_Event":
        return event or _Event()

    def query(self) -> bool:
        return True

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *error: object) -> None: ...


class _Event:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Any) -> float:
        raise UnsupportedOperation("torch.cuda.Event.elapsed_time", "a simulated GPU takes no time")


def _memory_functions(allocator: CachingAllocator, gpu: GPU) -> dict[str, Callable[..., Any]]:
    def statistic(name: str) -> Callable[..., int]:
        return lambda device=None: allocator.memory_stats()[name]

    return {
        "memory_allocated": statistic("allocated_bytes.all.current"),
        "max_memory_allocated": statistic("allocated_bytes.all.peak"),
        "memory_reserved": statistic("reserved_bytes.all.current"),
        "max_memory_reserved": statistic("reserved_bytes.all.peak"),
        "memory_stats": lambda device=None: allocator.memory_stats(),
        "reset_peak_memory_stats": lambda device=None: allocator.reset_peak_memory_stats(),
        "empty_cache": allocator.empty_cache,
        "mem_get_info": lambda device=None: (gpu.memory_bytes - allocator.reserved_bytes, gpu.memory_bytes),
    }


def _device_functions(gpu: GPU) -> dict[str, Any]:
    properties = SimpleNamespace(
        name=gpu.device_name,
        major=gpu.capability[0],
        minor=gpu.capability[1],
        total_memory=gpu.memory_bytes,
        multi_processor_count=gpu.sms,
        max_threads_per_multi_processor=gpu.max_threads_per_sm,
        shared_memory_per_block=SHARED_PER_BLOCK_BYTES,
        shared_memory_per_block_optin=gpu.limits.shared_per_block_optin_bytes,
        shared_memory_per_multiprocessor=gpu.limits.shared_per_sm_bytes,
        regs_per_multiprocessor=REGISTERS_PER_SM,
        warp_size=WARP_THREADS,
        L2_cache_size=gpu.l2_cache_bytes,
        memory_bus_width=gpu.memory_bus_bits,
        memory_clock_rate=gpu.memory_clock_khz,
        clock_rate=gpu.clock_khz,
        is_integrated=False,
        is_multi_gpu_board=False,
    )

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    def host_rng_state(*args: Any) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)  # seed and offset, on the host

    stream = _Stream()
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": nothing,
        "_lazy_init": nothing,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": nothing,
        "_exchange_device": lambda index: 0,
        "_maybe_exchange_device": lambda index: 0,
        "get_device_name": lambda device=None: gpu.device_name,
        "get_device_capability": lambda device=None: gpu.capability,
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: including_emulation or gpu.capability >= (8, 0),
        "is_current_stream_capturing": lambda: False,
        "synchronize": nothing,
        "ipc_collect": nothing,
        "manual_seed": nothing,
        "manual_seed_all": nothing,
        "get_rng_state": host_rng_state,
        "set_rng_state": nothing,
        "get_rng_state_all": lambda: [host_rng_state()],
        "set_rng_state_all": nothing,
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "stream": lambda stream: stream or _Stream(),
        "Stream": _Stream,
        "Event": _Event,
    }


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


def _step_without_overflow(self: Any, optimizer: Any, optimizer_state: Any, *args: Any, **kwargs: Any) -> Any:
    """GradScaler asks the device whether gradients overflowed: they did not."""
    return optimizer.step(*args, **kwargs)


def _managed(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:
    """bitsandbytes/functional.py, `get_paged`: CUDA's managed memory, not the allocator's."""
    pages = torch.empty(shape, dtype=dtype, device="cpu")
    pages.is_paged = True  # type: ignore[attr-defined]
    return pages


def _without_pages() -> list[tuple[Any, str, Any]]:
    """Patches of bitsandbytes, where it is loaded: its library for CPUs has no managed memory."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is None:
        return []
    return [
        (functional, "get_paged", _managed),
        (functional, "fill", lambda pages, value, device=None, prefetch=True: None),
        (functional, "prefetch_tensor", lambda pages, to_cpu=False: None),
    ]


@contextmanager
def cuda_names(gpu: GPU, allocator: CachingAllocator) -> Iterator[torch.device]:
    """Let `torch.cuda`, autocast, GradScaler and every device argument mean the simulated device."""
    patches: list[tuple[Any, str, Any]] = []
    for name, function in {**_memory_functions(allocator, gpu), **_device_functions(gpu)}.items():
        patches.append((torch.cuda, name, function))
        if hasattr(torch.cuda.memory, name):
            patches.append((torch.cuda.memory, name, function))
    for name in _AUTOCAST_FUNCTIONS:
        patches.append((torch, name, _for_cuda(getattr(torch, name))))
    patches += [
        (torch, "clear_autocast_cache", _clear_autocast_cache),
        (torch, "_has_compatible_shallow_copy_type", _may_set_data),
        # A torch built with CUDA would ask its driver for a recurrent layer's one buffer of weights.
        (torch.backends.cudnn, "is_acceptable", lambda tensor: False),
        (torch.amp.GradScaler, "_maybe_opt_step", _step_without_overflow),
        (
            torch.amp.GradScaler,
            "get_scale",
            lambda scaler: scaler._init_scale if scaler.is_enabled() else 1.0,
        ),
    ]
    patches += _without_pages()
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    torch.set_autocast_dtype(DEVICE_TYPE, torch.float16)  # CUDA's default
    try:
        for owner, name, replacement in patches:
            setattr(owner, name, replacement)
        with _CudaNames():
            yield _CUDA
    finally:
        for owner, name, original in reversed(originals):
            setattr(owner, name, original)
        autocast.clear_cache()
