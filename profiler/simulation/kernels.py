"""Kernels that the metadata rule does not cover: creation, copies, views, and what CUDA does in its own way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from profiler.simulation import dispatch
from profiler.simulation.dispatch import DEVICE_TYPE, memory_for, new_tensor, resize
from profiler.simulation.errors import UnsupportedOperation

aten = torch.ops.aten
_libraries: list[torch.library.Library] = []  # a registration lives as long as its Library object


def _contiguous_strides(shape: list[int]) -> list[int]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return strides


def empty(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    dtype = dtype or torch.get_default_dtype()
    if memory_format in (None, torch.contiguous_format, torch.preserve_format):
        return memory_for("aten::empty").tensor(size, _contiguous_strides(size), dtype, "aten::empty")
    with torch._C.DisableTorchFunction():
        like = torch.empty(size, dtype=dtype, device="meta", memory_format=memory_format)
    return new_tensor((tuple(size), like.stride(), dtype), "aten::empty")


def empty_strided(
    size: list[int],
    stride: list[int],
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> torch.Tensor:
    dtype = dtype or torch.get_default_dtype()
    return memory_for("aten::empty_strided").tensor(size, stride, dtype, "aten::empty_strided")


def copy_(self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """A copy computes nothing; between devices a strided destination is staged (cuda/Copy.cu, `copy_kernel_cuda`)."""
    with torch._C.DisableTorchFunction():
        if src.shape != self.shape:
            src = src.expand(self.shape)
        if src.device.type == "meta":
            raise UnsupportedOperation("aten::copy_", "cannot copy out of a meta tensor: it has no data")
        if self.device.type != DEVICE_TYPE:
            raise UnsupportedOperation("aten::copy_", "it reads values of the device; a simulated GPU holds none")
        if src.device.type != DEVICE_TYPE and not self.is_contiguous() and self.numel():
            staged_bytes = self.numel() * self.element_size()
            memory = memory_for("aten::copy_")
            memory.free(memory.malloc(staged_bytes, "aten::copy_"))
        return self


def resize_(
    self: torch.Tensor, size: list[int], memory_format: torch.memory_format | None = None
) -> torch.Tensor:
    with torch._C.DisableTorchFunction():
        strides = _contiguous_strides(size)
        enough = dispatch.span_bytes(size, strides, self.element_size()) <= self.untyped_storage().nbytes()
        if enough:
            storage = self.untyped_storage()
            aten.set_.source_Storage_storage_offset.redispatch(
                dispatch._CPU, self, storage, self.storage_offset(), size, strides
            )
        else:
            resize(self, size, strides, "aten::resize_")
        return self


_KERNELS: dict[str, Callable[..., Any]] = {
    "empty.memory_format": empty,
    "empty_strided": empty_strided,
    "copy_": copy_,
    "resize_": resize_,
}

# Pure bookkeeping on the TensorImpl: the CPU kernel serves.
_CPU_KERNELS = (
    "set_.source_Storage_storage_offset",
    "set_.source_Tensor",
    "set_.source_Storage",
    "is_set_to",
)


def _overload(name: str) -> torch._ops.OpOverload:
    base, _, overload = name.partition(".")
    return getattr(getattr(aten, base), overload or "default")


def _borrowed(op: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    return op.redispatch(dispatch._CPU, *args, **kwargs)


def _composites_to_replace() -> list[str]:
    """Operations with a composite kernel for any backend where CUDA has one kernel: they must not decompose.

    They are the structured operations (one kernel, PyTorch's codegen adds the composite for third-party backends),
    the operations with a native CPU kernel beside a composite, and foreach, which loops over tensors elsewhere.
    """
    names = []
    for full_name in torch._C._dispatch_get_all_op_names():
        if not full_name.startswith("aten::"):
            continue
        dump = torch._C._dispatch_dump(full_name)
        structured = "\nCompositeExplicitAutogradNonFunctional[alias]:" in dump
        native = "\nCompositeExplicitAutograd[alias]:" in dump and "\nCPU:" in dump
        if structured or native or full_name.startswith("aten::_foreach_"):
            names.append(full_name.removeprefix("aten::"))
    return names


def register() -> None:
    """Put every kernel in PyTorch's dispatch table. Once per process."""
    fallback = torch.library.Library("_", "IMPL", "PrivateUse1")
    fallback.fallback(dispatch.run)
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")
    for name in _composites_to_replace():
        if name not in _KERNELS:
            library.impl(name, partial(dispatch.run, _overload(name)))
    for name in _CPU_KERNELS:
        library.impl(name, partial(_borrowed, _overload(name)))
    for name, kernel in _KERNELS.items():
        library.impl(name, kernel)
    _libraries.extend((fallback, library))
