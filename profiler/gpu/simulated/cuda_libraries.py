"""What stands around `torch.cuda`: scalers, files, profilers, generators, and libraries of others."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from profiler.gpu.patched import Patch
from profiler.gpu.simulated.cuda_translation import CUDA, to_simulated
from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE, UnsupportedOperation


def library_patches() -> list[Patch]:
    """Owner, name and replacement of each."""
    return [*_scaler(), *_default_device(), *_profilers(), *_generators(), *_without_pages(), *_refused()]


def _step_without_overflow(self: Any, optimizer: Any, optimizer_state: Any, *args: Any, **kwargs: Any) -> Any:
    """GradScaler asks the device whether gradients overflowed: they did not."""
    return optimizer.step(*args, **kwargs)


def _managed(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:
    """bitsandbytes/functional.py, `get_paged`: CUDA's managed memory, not the allocator's."""
    pages = torch.empty(shape, dtype=dtype, device="cpu")
    pages.is_paged = True  # type: ignore[attr-defined]
    return pages


def _without_pages() -> list[Patch]:
    """Patches of bitsandbytes, where it is loaded: its library for CPUs has no managed memory."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is None:
        return []
    return [
        (functional, "get_paged", _managed),
        (functional, "fill", lambda pages, value, device=None, prefetch=True: None),
        (functional, "prefetch_tensor", lambda pages, to_cpu=False: None),
    ]


def _scaler() -> list[Patch]:
    scaler = torch.amp.GradScaler
    return [
        (scaler, "_maybe_opt_step", _step_without_overflow),
        (scaler, "get_scale", lambda scaler: scaler._init_scale if scaler.is_enabled() else 1.0),
    ]


def _default_device() -> list[Patch]:
    """A default device is filled in below our translation of names: it is translated before."""
    set_default, get_default = torch.set_default_device, torch.get_default_device

    def current() -> torch.device:
        device = get_default()
        return CUDA if device.type == DEVICE_TYPE else device

    return [
        (torch, "set_default_device", lambda device: set_default(to_simulated(device))),
        (torch, "get_default_device", current),
    ]


def _profilers() -> list[Patch]:
    """torch.profiler records what the host does: there is no CUDA to listen to. NVTX ranges are nobody's."""
    initialize = torch.autograd.profiler.profile.__init__

    def on_the_host(self: Any, *args: Any, use_device: str | None = None, **kwargs: Any) -> None:
        initialize(self, *args, use_device=None if use_device == "cuda" else use_device, **kwargs)

    nothing = SimpleNamespace(
        **dict.fromkeys(
            (
                "rangePushA",
                "rangePop",
                "markA",
                "rangeStartA",
                "rangeEnd",
                "deviceRangeStart",
                "deviceRangeEnd",
            ),
            lambda *args: 0,
        )
    )
    return [
        (torch.autograd.profiler.profile, "__init__", on_the_host),
        (torch.cuda.nvtx, "_nvtx", nothing),
        (torch.cuda.profiler, "start", lambda: None),
        (torch.cuda.profiler, "stop", lambda: None),
    ]


def _generators() -> list[Patch]:
    """A generator of the device is one of the host: nothing is drawn from it there."""
    original = torch.Generator

    class KindOfGenerator(type(original)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, original)

    class Generator(original, metaclass=KindOfGenerator):  # type: ignore[misc,valid-type]
        def __new__(cls, device: Any = "cpu") -> Any:
            return original("cpu" if to_simulated(device) != device else device)

    return [(torch, "Generator", Generator)]


def _refuse(name: str, reason: str) -> Callable[..., Any]:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedOperation(name, reason)

    return refused


def _compile(model: Any = None, **options: Any) -> Any:
    """torch.compile: libraries decorate functions that may never be called; a model is to be called."""
    refused = _refuse("torch.compile", "a simulated GPU has no compiled kernels")
    if model is None:
        return _compile
    return refused() if isinstance(model, torch.nn.Module) else functools.wraps(model)(refused)


def _refused() -> list[Patch]:
    """What a model of memory cannot follow, refused where the program asks for it."""
    graphs = "a simulated GPU has no CUDA graphs"
    no_graph = type("CUDAGraph", (), {"__new__": _refuse("torch.cuda.CUDAGraph", graphs)})
    return [
        (torch.cuda, "CUDAGraph", no_graph),
        (torch.cuda, "make_graphed_callables", _refuse("torch.cuda.make_graphed_callables", graphs)),
        (torch, "compile", _compile),
        (
            torch.distributed,
            "init_process_group",
            _refuse("torch.distributed.init_process_group", "one GPU is simulated"),
        ),
    ]


@contextmanager
def files_of_tensors() -> Iterator[None]:
    """Tensors of the device are saved as CUDA's, and CUDA's are loaded onto it."""
    registry = torch.serialization._package_registry
    before = list(registry)

    def tag(storage: Any) -> str | None:
        return "cuda:0" if storage.device.type == DEVICE_TYPE else None

    def load(storage: Any, location: str) -> Any:
        if not location.startswith("cuda"):
            return None
        data = torch.empty(0, dtype=torch.uint8).set_(storage)
        return data.to(to_simulated(location)).untyped_storage()

    torch.serialization.register_package(0, tag, load)
    try:
        yield
    finally:
        registry[:] = before
