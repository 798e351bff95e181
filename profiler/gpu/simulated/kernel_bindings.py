"""Allocations inside CUDA kernels that no tensor shows, bound to the operations that make them.

The sizes come from profiler.gpu.kernels; here is only which operation runs which kernel, with which numbers.
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._ops import OpOverload

from profiler.gpu import kernels
from profiler.gpu.cards import GPU
from profiler.gpu.kernels import Scratch
from profiler.gpu.simulated import attention
from profiler.gpu.simulated.tensors.dense_copies import COPIES, dense_bytes
from profiler.gpu.simulated.tensors.layouts import (
    is_reduced,
    is_reduced_by_channels,
    lies_by_channels,
    views_as_rows,
)
from profiler.gpu.simulated.tensors.outputs import arguments_of

aten = torch.ops.aten

Arguments = dict[str, Any]  # by the names of the schema, defaults filled in
Version = tuple[int, int]  # of torch
Scratches = tuple[Scratch, ...]
Rule = Callable[[Arguments, Any, GPU, Version], Scratches]

# The kernel behind each reduction (`profiler.gpu.kernels.reduction.accumulator`).
_REDUCTIONS = {
    "sum": "sum",
    "prod": "sum",
    "mean": "mean",
    "linalg_vector_norm": "norm",
    "norm": "norm",
    "var": "var",
    "std": "var",
    "var_mean": "var",
    "std_mean": "var",
    "max": "max",
    "min": "max",
    "argmax": "max",
    "argmin": "max",
    "amax": "amax",
    "amin": "amax",
    "aminmax": "aminmax",
    "any": "any",
    "all": "any",
}
_GROUP_NORM_COPIES = (2, 13)  # seen in 2.14, not in 2.11
# Named operands of the operations that run on cuBLAS.
_MATRIX_PRODUCTS = {
    "mm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
    "_addmm_activation": ("mat1", "mat2"),
    "bmm": ("self", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "mv": (),
    "addmv": (),
    "dot": (),
    "vdot": (),
    "_scaled_mm": (),
    "_grouped_mm": (),
}


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _first(described: Any) -> Any:
    return described[0] if isinstance(described, list) else described


def _reduction(kind: str) -> Rule:
    def rule(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
        tensor: torch.Tensor = arguments["self"]
        dims = arguments.get("dim")
        dims = [dims] if isinstance(dims, int) else dims
        used, output_type = kind, _first(described)[2]
        if kind == "max" and dims is None and "dim" not in arguments:
            used = "amax"  # over everything only the value is wanted
        element_bytes, offset = tensor.element_size(), int(tensor.storage_offset())
        strides: tuple[int, ...] | None = tensor.stride()
        copy: tuple[Scratch, ...] = ()
        half_to_float = tensor.dtype in (torch.float16, torch.bfloat16) and output_type == torch.float32
        if kind in ("sum", "mean", "norm") and tensor.dtype != output_type and not half_to_float:
            # ReduceOpsUtils.h, `make_reduction`: other inputs are first converted to the output's type.
            element_bytes, strides, offset = output_type.itemsize, None, 0
            copy = (Scratch("converted input", tensor.numel() * element_bytes),)
        if tensor.numel() <= 1:
            return ()  # nothing to reduce
        dims = [dim % max(tensor.dim(), 1) for dim in dims] if dims else None
        return copy + kernels.reduction(
            tuple(tensor.shape),
            dims,
            element_bytes,
            gpu,
            kind=used,
            output_element_bytes=output_type.itemsize,
            strides=strides,
            storage_offset=offset,
            torch_version=version,
        )

    return rule


def _is_blas_matrix(tensor: torch.Tensor) -> bool:
    """Blas.cpp, `prepare_matrix_for_cublas`: one of the last two strides is 1, the other spans its rows."""
    rows, columns = tensor.shape[-2:]
    row_stride, column_stride = tensor.stride()[-2:]
    by_rows = column_stride == 1 and row_stride >= max(1, columns)
    by_columns = row_stride == 1 and column_stride >= max(1, rows)
    return by_rows or by_columns


def _operand_copies(names: Sequence[str]) -> Rule:
    def rule(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
        operands = [arguments[name] for name in names]
        if any(operand.numel() == 0 for operand in operands):
            return ()
        return tuple(
            Scratch("contiguous operand", _bytes(operand))
            for operand in operands
            if not _is_blas_matrix(operand)
        )

    return rule


def _contiguous_before(*tensors: torch.Tensor | None) -> Scratches:
    """`expect_contiguous()` at the head of a kernel: a copy, made before the outputs."""
    return tuple(
        Scratch("contiguous input", _bytes(t), "op", 0, True)
        for t in tensors
        if t is not None and t.numel() and not t.is_contiguous()
    )


def _layer_norm(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    return _contiguous_before(arguments["input"])


def _layer_norm_backward(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    grad, tensor, wanted = arguments["grad_out"], arguments["input"], arguments["output_mask"]
    width = math.prod(arguments["normalized_shape"])
    # layer_norm_kernel.cu, `LayerNormBackwardKernelImpl`: the gradient is copied after the outputs.
    copied = Scratch("contiguous gradient", dense_bytes(grad))
    return (
        _contiguous_before(tensor)
        + kernels.scratches(copied)
        + kernels.layer_norm_backward(
            tensor.numel() // max(width, 1),
            width,
            arguments["weight"].element_size() if arguments["weight"] is not None else tensor.element_size(),
            gpu,
            weight_grad=wanted[1],
            bias_grad=len(wanted) > 2 and wanted[2],
            torch_version=version,
        )
    )


def _group_norm(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    affine = arguments["weight"] is not None or arguments["bias"] is not None
    tensor = arguments["input"]
    # group_norm.cpp: a copy of the input before the outputs; after them by 2.14.
    copied = Scratch("contiguous input", dense_bytes(tensor), before_outputs=version < _GROUP_NORM_COPIES)
    return kernels.scratches(copied) + kernels.group_norm_forward(
        arguments["N"], arguments["C"], arguments["HxW"], tensor.element_size(), affine
    )


def _group_norm_backward(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    # group_norm.cpp: by 2.14 it copies what autograd's formula (derivatives.yaml) had copied before.
    copied = _contiguous_before(arguments["grad_out"], arguments["input"])
    return (copied if version >= _GROUP_NORM_COPIES else ()) + kernels.group_norm_backward(
        arguments["N"],
        arguments["C"],
        arguments["HxW"],
        arguments["group"],
        arguments["input"].element_size(),
        weight=arguments["weight"] is not None,
        input_grad=arguments["output_mask"][0],
    )


def _batch_norm(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    tensor = arguments["input"]
    if not (arguments["training"] and lies_by_channels(tensor)):
        return ()
    channels = tensor.shape[1]
    return kernels.batch_norm_channels_last(channels, tensor.numel() // channels)


def _batch_norm_backward(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    tensor, grad = arguments["input"], arguments["grad_out"]
    # Normalization.cuh, `batch_norm_backward_cuda_template`: both as [batch, channels, the rest].
    reshaped = [
        Scratch("reshaped", _bytes(t), before_outputs=True) for t in (tensor, grad) if not views_as_rows(t)
    ]
    if not is_reduced_by_channels(arguments):
        return tuple(reshaped) if is_reduced(arguments) else ()
    channels = tensor.shape[1]
    sums = [Scratch(f"sums of {what}", channels * 4, "op", 0, True) for what in ("gradients", "products")]
    weight = arguments["weight"]
    if weight is not None:  # their gradients are computed wanted or not
        named = zip(("weight", "bias"), arguments["output_mask"][1:], strict=True)
        sums += [Scratch(f"{name} gradient", _bytes(weight)) for name, wanted in named if not wanted]
    if not lies_by_channels(grad):  # the reduction of other layouts
        return (*(replace(copy, lifetime="stage") for copy in reshaped), *sums)
    return (*sums, *kernels.batch_norm_channels_last(channels, tensor.numel() // channels, backward=True))


def _embedding_backward(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    grad, indices = arguments["grad_output"], arguments["indices"]
    return _contiguous_before(indices, grad) + kernels.embedding_dense_backward(
        indices.numel(),
        arguments["num_weights"],
        grad.shape[-1],
        grad.element_size(),
        gpu,
        index_bytes=indices.element_size(),
        padding_index=arguments["padding_idx"],
        scale_by_frequency=arguments["scale_grad_by_freq"],
        deterministic=torch.are_deterministic_algorithms_enabled(),
        torch_version=version,
    )


def _index_put(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    if not arguments["accumulate"] and not torch.are_deterministic_algorithms_enabled():
        return ()
    tensor, values = arguments["self"], arguments["values"]
    indices = {axis: index for axis, index in enumerate(arguments["indices"]) if index is not None}
    shape = torch.broadcast_shapes(*[index.shape for index in indices.values()])
    kept = [size for axis, size in enumerate(tensor.shape) if axis not in indices]
    full = math.prod(shape) * math.prod(kept)
    copied = values.numel() != full or not values.is_contiguous()
    return kernels.index_put_accumulate(
        math.prod(shape),
        math.prod(tensor.shape[axis] for axis in indices) - 1,
        gpu,
        index_tensors=len(indices),
        index_bytes=next(iter(indices.values())).element_size(),
        value_copy_bytes=full * values.element_size() if copied else 0,
        checks_range=not arguments["unsafe"],
        torch_version=version,
    )


def _masked_scatter(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    tensor, source = arguments["self"], arguments["source"]
    mask = arguments["mask"].expand(tensor.shape)
    return kernels.masked_scatter(
        tensor.numel(),
        copies_mask=not mask.is_contiguous(),
        source_copy_bytes=0 if source.is_contiguous() else _bytes(source),
        torch_version=version,
    )


def _nonzero(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    tensor = arguments["self"]
    return _contiguous_before(tensor) + kernels.nonzero(tensor.numel(), gpu, version)


def _cumulative(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    shape, _, dtype = _first(described)
    tensor = arguments["self"]
    like = torch.empty_strided(tensor.shape, tensor.stride(), device="meta")
    converts = tensor.dtype != dtype
    dense = (torch.empty_like(like) if converts else like).is_contiguous()
    size_bytes = tensor.numel() * dtype.itemsize
    return kernels.cumsum(
        shape or (1,),
        arguments["dim"],
        dtype.itemsize,
        is_floating=dtype.is_floating_point,
        converted_bytes=size_bytes if converts else 0,
        dense_copy_bytes=0 if dense else size_bytes,
        torch_version=version,
    )


def _pow(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    """Pow.cpp, `pow_Scalar_out`: a base that is a number, other than 1, becomes a tensor of the device."""
    base = arguments["self"]
    if isinstance(base, torch.Tensor) or base == 1:
        return ()
    return (Scratch("base", 16 if isinstance(base, complex) else 8),)


def _rows(tensor: torch.Tensor, dim: int) -> tuple[int, int]:
    items = tensor.shape[dim] if tensor.dim() else 1
    return tensor.numel() // max(items, 1), items


def _topk(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    tensor = arguments["self"]
    slices, items = _rows(tensor, arguments["dim"])
    # TensorTopK.cpp: the input is copied where it is not contiguous.
    return kernels.scratches(Scratch("contiguous input", dense_bytes(tensor))) + kernels.topk(
        slices,
        items,
        arguments["k"],
        tensor.element_size(),
        gpu,
        is_sorted=arguments["sorted"],
        torch_version=version,
    )


def _sort(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    tensor = arguments["self"]
    return kernels.sort(*_rows(tensor, arguments["dim"]), tensor.element_size(), gpu)


def _foreach_norm(arguments: Arguments, described: Any, gpu: GPU, version: Version) -> Scratches:
    tensors = arguments["self"]
    return kernels.foreach_norm([t.numel() for t in tensors], tensors[0].element_size())


_RULES: dict[str, Rule] = {
    **{name: _reduction(kind) for name, kind in _REDUCTIONS.items()},
    **{name: _operand_copies(operands) for name, operands in _MATRIX_PRODUCTS.items()},
    **COPIES,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "_fused_rms_norm": _layer_norm,
    "_fused_rms_norm_backward": _layer_norm_backward,
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm_backward,
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "embedding_dense_backward": _embedding_backward,
    "_index_put_impl_": _index_put,
    "nonzero": _nonzero,
    "masked_scatter_": _masked_scatter,
    "cumsum": _cumulative,
    "cumprod": _cumulative,
    "pow": _pow,
    "topk": _topk,
    "sort": _sort,
    "_foreach_norm": _foreach_norm,
    "_scaled_dot_product_flash_attention": attention.flash_scratch,
    "_scaled_dot_product_flash_attention_backward": attention.flash_backward_scratch,
    "_scaled_dot_product_cudnn_attention": attention.cudnn_scratch,
    "_scaled_dot_product_cudnn_attention_backward": attention.cudnn_backward_scratch,
    "_scaled_dot_product_efficient_attention": attention.efficient_scratch,
    "_scaled_dot_product_efficient_attention_backward": attention.efficient_backward_scratch,
}


class HiddenAllocations:
    """The hidden allocations of one run on one GPU, as the kernels of `torch_version` make them."""

    def __init__(self, gpu: GPU, torch_version: Version) -> None:
        self._gpu = gpu
        self._version = torch_version
        self._blas_threads: set[int] = set()

    def of(self, op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], described: Any) -> Scratches:
        """What `op` allocates beside its outputs, in order."""
        name = op.overloadpacket.__name__
        rule = _RULES.get(name)
        if rule is None:
            return ()
        found = rule(arguments_of(op, args, kwargs), described, self._gpu, self._version)
        if name in _MATRIX_PRODUCTS and not self._runs_on_cutlass(name, args):
            found += self._blas_workspace()
        return found

    def _runs_on_cutlass(self, name: str, args: Sequence[Any]) -> bool:
        """GroupedBlas.cpp, `_grouped_mm_cuda`: bfloat16 on capability 9 and 10, not group by group."""
        return (
            name == "_grouped_mm"
            and self._gpu.capability[0] in (9, 10)
            and all(matrix.dtype == torch.bfloat16 for matrix in args[:2])
        )

    def _blas_workspace(self) -> Scratches:
        """cuBLAS handles belong to threads: the forward's and autograd's each keep a workspace for ever."""
        thread = threading.get_ident()
        if thread in self._blas_threads:
            return ()
        self._blas_threads.add(thread)
        return kernels.cublas_workspace(self._gpu, self._version, os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
