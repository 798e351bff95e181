"""The dispatch table of the device: which function answers which operation, and the few that
create or move data.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch

from profiler.gpu.simulated import autocast, dispatch, library_choice
from profiler.gpu.simulated.dispatch import CPU_KERNEL, machine, new_tensor, resize
from profiler.gpu.simulated.tensors.layouts import Metadata, contiguous
from profiler.gpu.simulated.tensors.outputs import (
    PLACEMENTS,
    RULED_OPERATIONS,
    Placement,
    describe_outputs,
)
from profiler.gpu.simulated.tensors.storage import span_bytes
from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE, UnsupportedOperation
from profiler.gpu.virtual.values.assumptions import AS_IF_ONE

aten = torch.ops.aten
_libraries: list[torch.library.Library] = []  # a registration lives as long as its Library object


def empty(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: Any = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """A new block."""
    dtype = dtype or torch.get_default_dtype()
    if layout not in (None, torch.strided):
        raise UnsupportedOperation("aten::empty", f"layout {layout} is not simulated, only torch.strided")
    if memory_format in (None, torch.contiguous_format, torch.preserve_format):
        return _fresh(contiguous(size, dtype), "aten::empty")
    with torch._C.DisableTorchFunction():
        like = torch.empty(size, dtype=dtype, device="meta", memory_format=memory_format)
    return _fresh((tuple(size), like.stride(), dtype), "aten::empty")


def _fresh(described: Metadata, op: str) -> torch.Tensor:
    tensor = new_tensor(described, op)
    machine(op).values.note_fresh(tensor)
    return tensor


def empty_strided(
    size: list[int],
    stride: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: Any = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """A new block."""
    return _fresh((tuple(size), tuple(stride), dtype or torch.get_default_dtype()), "aten::empty_strided")


def copy_(self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """A copy computes nothing; from the host, a strided destination is staged (cuda/Copy.cu,
    `copy_kernel_cuda`).
    """
    with torch._C.DisableTorchFunction():
        if src.size() != self.size():  # a lazy module's parameter has no shape
            src = src.expand(self.size())
        if src.device.type == "meta":
            raise UnsupportedOperation("aten::copy_", "cannot copy out of a meta tensor: it has no data")
        device = machine("aten::copy_")
        values = device.values.of(src) if src.device.type == DEVICE_TYPE else src
        if src.is_floating_point() and src.requires_grad:
            values = None  # a parameter: data, not control
        if self.device.type != DEVICE_TYPE:
            return self.copy_(_read(src) if values is None else _noted(src, values))
        if src.device.type != DEVICE_TYPE and self.numel() and _is_staged(self, src):
            memory = device.memory
            memory.free(memory.malloc(self.numel() * self.element_size(), "aten::copy_"))
        device.values.write(self, values)
        return self


def _is_staged(destination: torch.Tensor, source: torch.Tensor) -> bool:
    """cuda/Copy.cu, `copy_requires_temporaries`: not where one copy of memory does, as of channels last."""
    alike = destination.dtype == source.dtype and destination.stride() == source.stride()
    dense = torch._prims_common.is_non_overlapping_and_dense_or_false(destination)
    return not destination.is_contiguous() and not (alike and dense)


def _noted(src: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values that the host reads, said where they rest on an assumption."""
    device = machine("aten::copy_")
    if device.reads is not None and src.device.type == DEVICE_TYPE and device.values.is_assumed(src):
        device.reads.note("copy to the host", AS_IF_ONE)
    return values


def _read(src: torch.Tensor) -> torch.Tensor:
    """What stands for values that are not computed. Raises UnsupportedOperation where nothing may."""
    device = machine("aten::copy_")
    reads = device.reads
    if reads is None:
        reason = "it needs values of the device; a simulated GPU holds none"
        raise UnsupportedOperation("aten::copy_", reason)
    reads.note("copy to the host", reads.words(src.dtype, src.numel()))
    values = reads.filled(src)
    if src.numel() == 1 and not src.requires_grad:
        device.values.assume(src, values)
    return values


def resize_(
    self: torch.Tensor, size: list[int], memory_format: torch.memory_format | None = None
) -> torch.Tensor:
    """A storage never shrinks; growing takes a new block."""
    with torch._C.DisableTorchFunction():
        _, strides, dtype = contiguous(size, self.dtype)
        offset_bytes = self.storage_offset() * dtype.itemsize
        if offset_bytes + span_bytes(size, strides, dtype.itemsize) > self.untyped_storage().nbytes():
            resize(self, size, strides, "aten::resize_")
            return self
        storage = self.untyped_storage()
        aten.set_.source_Storage_storage_offset.redispatch(
            CPU_KERNEL, self, storage, self.storage_offset(), size, strides
        )
        return self


def _positions(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Masks become the positions of their ones, host indices move to the device
    (TensorAdvancedIndexing.cpp).
    """
    positions: list[torch.Tensor | None] = []
    for index in indices:
        if index is None:
            positions.append(None)
        elif index.dtype in (torch.bool, torch.uint8):
            positions.extend(index.nonzero().to(DEVICE_TYPE).unbind(1))
        else:
            positions.append(index.to(DEVICE_TYPE))
    return positions


def _alike(positions: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """TensorAdvancedIndexing.cpp, `make_info` and `AdvancedIndex`: indices are expanded to one shape and are
    int64; where their strides differ, the kernel is given dense ones.
    """
    found = [position for position in positions if position is not None]
    full = iter(t.long() for t in torch.broadcast_tensors(*found)) if found else iter(())
    expanded: list[torch.Tensor | None] = [
        next(full) if position is not None else None for position in positions
    ]
    if len({position.stride() for position in expanded if position is not None}) <= 1:
        return expanded
    return [position.contiguous() if position is not None else None for position in expanded]


def index(self: torch.Tensor, indices: list[torch.Tensor | None]) -> torch.Tensor:
    """`x[i, j]`."""
    with torch._C.DisableTorchFunction():
        return dispatch.run_operation(aten.index.Tensor, self, _alike(_positions(indices)))


def index_put_impl_(
    self: torch.Tensor,
    indices: list[torch.Tensor | None],
    values: torch.Tensor,
    accumulate: bool = False,
    unsafe: bool = False,
) -> torch.Tensor:
    """`x[i, j] = values`; a mask with one value is a masked_fill and needs no positions."""
    with torch._C.DisableTorchFunction():
        masks = [i for i in indices if i is not None]
        if values.numel() == 1 and not accumulate and len(masks) == 1 and masks[0].dtype == torch.bool:
            leading = sum(i is None for i in indices[: indices.index(masks[0])]) if indices[0] is None else 0
            trailing = self.dim() - leading - masks[0].dim()
            mask = masks[0].to(DEVICE_TYPE).reshape([*masks[0].shape, *[1] * trailing])
            on_host = values.device.type == "cpu"
            return self.masked_fill_(mask, values.item() if on_host else values.to(self.dtype))
        values = values.to(DEVICE_TYPE)  # a number
        positions = _positions(indices)
        if not accumulate and not torch.are_deterministic_algorithms_enabled():
            positions = _alike(positions)
        return dispatch.run_operation(
            aten._index_put_impl_.default, self, positions, values, accumulate, unsafe
        )


def masked_select(self: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """cuda/IndexKernel.cpp, `masked_select_out_cuda_impl`: an index by the mask, both expanded."""
    with torch._C.DisableTorchFunction():
        expanded, expanded_mask = torch.broadcast_tensors(*(t if t.dim() else t[None] for t in (self, mask)))
        return index(expanded, [expanded_mask])


def roll(self: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor:
    """TensorTransformationsUtils.h, `roll_common`: one axis after another."""
    with torch._C.DisableTorchFunction():
        if len(dims) < 2:
            return dispatch.run_operation(aten.roll.default, self, shifts, dims)
        for shift, dim in zip(shifts, dims, strict=True):
            self = dispatch.run_operation(aten.roll.default, self, [shift], [dim])
        return self


def col2im(self: torch.Tensor, output_size: Sequence[int], *geometry: Sequence[int]) -> torch.Tensor:
    """cuda/Col2Im.cu, `col2im_cuda`: as large as the columns, then resized: its storage stays."""
    with torch._C.DisableTorchFunction():
        shape, _, _ = describe_outputs(aten.col2im.default, [self, output_size, *geometry], {})
        result = new_tensor(contiguous(self.shape, self.dtype), "aten::col2im")
        self.contiguous()  # a copy for the kernel, where the columns do not lie so
        return resize_(result, list(shape))


_KERNELS: dict[str, Callable[..., Any]] = {
    "empty.memory_format": empty,
    "empty_strided": empty_strided,
    "copy_": copy_,
    "resize_": resize_,
    "index.Tensor": index,
    "_index_put_impl_": index_put_impl_,
    "masked_select": masked_select,
    "roll": roll,
    "col2im": col2im,
    "mse_loss": partial(library_choice.loss_over_its_terms, aten.mse_loss.default, False),
    "smooth_l1_loss": partial(library_choice.loss_over_its_terms, aten.smooth_l1_loss.default, False),
    "binary_cross_entropy": partial(
        library_choice.loss_over_its_terms, aten.binary_cross_entropy.default, True
    ),
    "huber_loss": library_choice.huber_loss,
    "_ctc_loss": library_choice.ctc_loss,
    "_ctc_loss_backward": library_choice.ctc_loss_backward,
    "convolution": library_choice.convolution,
    "convolution_backward": library_choice.convolution_backward,
}

# Composites with gradients of their own steps, replaced above autograd.
_COMPOSITES: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": library_choice.scaled_dot_product_attention,
    "_batch_norm_impl_index": library_choice.batch_norm_impl_index,
}

# Composites that cuDNN takes over, simulated as they decompose.
_RECURRENT = ("lstm.input", "lstm.data", "gru.input", "gru.data", "rnn_tanh.input", "rnn_relu.input")

_SCALES_FIRST = Placement((1, 0))

# Kernels of bitsandbytes, which has composites of many steps for devices that it does not know: those in
# place, and those that return tensors (backends/cuda/ops.py; where it says, in another order).
# A product with 4-bit weights is the composite, as on CUDA: dequantized, then multiplied. On CUDA one kernel
# does both for few rows, at most 1536, where it is faster: this is then an upper bound.
_BITSANDBYTES_IN_PLACE = ("optimizer_update_8bit_blockwise", "optimizer_update_32bit")
_BITSANDBYTES = {
    "quantize_4bit": _SCALES_FIRST,
    "quantize_blockwise": _SCALES_FIRST,
    "dequantize_4bit": None,
    "dequantize_blockwise": None,
    "int8_linear_matmul": None,
}

# Pure bookkeeping on the TensorImpl: the CPU kernel serves.
_CPU_KERNELS = (
    "as_strided_",
    "set_.source_Storage_storage_offset",
    "set_.source_Tensor",
    "set_.source_Storage",
    "is_set_to",
)


def _overload(name: str) -> torch._ops.OpOverload:
    base, _, overload = name.partition(".")
    return getattr(getattr(aten, base), overload or "default")


def _borrowed(op: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    return op.redispatch(CPU_KERNEL, *args, **kwargs)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """A kernel that writes in place and allocates nothing."""


def _of_bitsandbytes(name: str, *args: Any, **kwargs: Any) -> Any:
    op = getattr(torch.ops.bitsandbytes, name).default  # there once the library is imported
    placement = _BITSANDBYTES[name]
    if placement is not None:
        PLACEMENTS.setdefault(op, lambda arguments, version: placement)
    return dispatch.run_operation(op, *args, **kwargs)


@cache
def single_kernels() -> list[str]:
    """Operations that decompose on third-party devices where CUDA has one kernel: they must not decompose
    here.

    They are the structured operations (codegen adds a composite for third-party backends), the operations
    with a CPU kernel beside their composite, and foreach, which loops over tensors elsewhere.
    """
    names = [op._schema.name.removeprefix("aten::") for op in RULED_OPERATIONS]
    for full_name in torch._C._dispatch_get_all_op_names():
        if not full_name.startswith("aten::"):
            continue
        dump = torch._C._dispatch_dump(full_name)
        structured = "\nCompositeExplicitAutogradNonFunctional[alias]:" in dump
        composite = (
            "\nCompositeExplicitAutograd[alias]:" in dump or "\nCompositeImplicitAutograd[alias]:" in dump
        )
        if structured or (composite and "\nCPU:" in dump) or full_name.startswith("aten::_foreach_"):
            names.append(full_name.removeprefix("aten::"))
    return names


def register_operations() -> None:
    """Put every kernel in PyTorch's dispatch table. Once per process."""
    fallback = torch.library.Library("_", "IMPL", "PrivateUse1")
    fallback.fallback(dispatch.run_operation)
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")
    for name in single_kernels():
        if name not in _KERNELS:
            library.impl(name, partial(dispatch.run_operation, _overload(name)))
    for name in _CPU_KERNELS:
        library.impl(name, partial(_borrowed, _overload(name)))
    for name, kernel in {**_KERNELS, **_COMPOSITES}.items():
        library.impl(name, kernel)
    above_autograd = torch.library.Library("aten", "IMPL", "AutogradPrivateUse1")
    for name, kernel in _COMPOSITES.items():
        above_autograd.impl(name, kernel)
    for name in _RECURRENT:
        above_autograd.impl(name, partial(library_choice.recurrent, _overload(name)))
    bitsandbytes = torch.library.Library("bitsandbytes", "IMPL", "PrivateUse1")
    for name in _BITSANDBYTES_IN_PLACE:
        bitsandbytes.impl(name, _nothing)
    for name in _BITSANDBYTES:
        bitsandbytes.impl(name, partial(_of_bitsandbytes, name))
    _libraries.extend((fallback, library, above_autograd, bitsandbytes, *autocast.register_autocast()))
