"""What an operation returns on CUDA: shapes, strides, dtypes, and the order in which the kernel
allocates them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._meta_registrations  # the Meta kernels written in Python
from torch._ops import OpOverload

from profiler.gpu.simulated.tensors.layouts import LAYOUTS, Metadata, contiguous, is_reduced_by_channels
from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE, UnsupportedOperation
from profiler.units import round_up

aten = torch.ops.aten

_described: dict[Any, Any] = {}
_UNKNOWN = object()


@dataclass(frozen=True)
class Placement:
    """How a kernel allocates its outputs.

    order: positions of the outputs, in the order of their allocation.
    before_scratch: so many of them come before the kernel's own scratch; all if None.
    host: those that live on the host.
    """

    order: tuple[int, ...]
    before_scratch: int | None = None
    host: tuple[int, ...] = ()


def _mask_first(arguments: dict[str, Any], version: tuple[int, int]) -> Placement:
    """cuda/Dropout.cu, `dropout_cuda`: the mask, then the result."""
    return Placement((1, 0))


def _workspace_first(arguments: dict[str, Any], version: tuple[int, int]) -> Placement:
    """cuda/RNN.cu: the workspace, then the state."""
    return Placement((1, 0))


def _flash_attention(arguments: dict[str, Any], version: tuple[int, int]) -> Placement:
    """flash_api.cpp, `mha_fwd`: the random state is last; with dropout it is made anew, after a number."""
    return Placement((0, 1, 2, 3, 4, 5, *((7, 6) if arguments["dropout_p"] > 0 else (6, 7)), 8), 2)


def _efficient_attention(arguments: dict[str, Any], version: tuple[int, int]) -> Placement:
    """attention.cu, `_efficient_attention_forward`: seed and offset, numbers on the host; since 2.13 empty
    ones on the device where there is no dropout.
    """
    if version >= (2, 13) and arguments["dropout_p"] == 0:
        return Placement((2, 3, 0, 1))
    return Placement((0, 1, 2, 3), host=(2, 3))


def _efficient_attention_alone(arguments: dict[str, Any], version: tuple[int, int]) -> Placement:
    """The same kernel, called by itself: it returns the lengths too."""
    found = _efficient_attention(arguments, version)
    return Placement((*found.order, 4, 5), host=found.host)


def _cudnn_attention(arguments: dict[str, Any], version: tuple[int, int]) -> Placement:
    """attention.cu, `_cudnn_attention_forward`: likewise."""
    if version >= (2, 13) and arguments["dropout_p"] == 0:
        return Placement((6, 7, 0, 1, 2, 3, 4, 5, 8))
    return Placement(tuple(range(9)), host=(6, 7))


def _batch_norm_backward(arguments: dict[str, Any], version: tuple[int, int]) -> Placement:
    return Placement((1, 2, 0), 2) if is_reduced_by_channels(arguments) else Placement((0, 1, 2))


# Kernels that allocate their outputs in another order, around their scratch, or on the host.
PLACEMENTS: dict[OpOverload, Callable[[dict[str, Any], tuple[int, int]], Placement]] = {
    aten.native_dropout.default: _mask_first,
    aten._thnn_fused_gru_cell.default: _workspace_first,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten._scaled_dot_product_flash_attention.default: _flash_attention,
    aten._scaled_dot_product_efficient_attention.default: _efficient_attention,
    aten._efficient_attention_forward.default: _efficient_attention_alone,
    aten._scaled_dot_product_cudnn_attention.default: _cudnn_attention,
}


def arguments_of(op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by the names of the schema, defaults filled in."""
    named = {argument.name: argument.default_value for argument in op._schema.arguments}
    named.update(zip(named, args, strict=False))
    named.update(kwargs)
    return named


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _fused_rms_norm(
    input: torch.Tensor, normalized_shape: Sequence[int], weight: Any, eps: Any
) -> list[Metadata]:
    """cuda/layer_norm_kernel.cu, `_fused_rms_norm_cuda`: the result and 1/rms per row in the
    accumulator's type.
    """
    kept = input.dim() - len(normalized_shape)
    rows = [*input.shape[:kept], *[1] * len(normalized_shape)]
    return [contiguous(input.shape, input.dtype), contiguous(rows, _accumulator(input.dtype))]


def _fused_rms_norm_backward(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> list[Metadata | None]:
    grad_weight = contiguous(weight.shape, weight.dtype) if weight is not None and output_mask[1] else None
    return [contiguous(input.shape, input.dtype) if output_mask[0] else None, grad_weight]


def _grouped_mm(
    first: torch.Tensor,
    second: torch.Tensor,
    offsets: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Metadata:
    """GroupedMMUtils.h, `create_grouped_gemm_output_tensor`: rows begin at multiples of 16 bytes.

    The Meta kernel takes bfloat16 only; CUDA multiplies other types group by group.
    """
    dtype = out_dtype or first.dtype
    columns = second.shape[-1]
    if first.dim() == 2 and second.dim() == 2:
        assert offsets is not None
        shape: tuple[int, ...] = (offsets.shape[0], first.shape[0], columns)
    elif first.dim() == second.dim():
        shape = (*first.shape[:2], columns)
    else:
        shape = (first.shape[-2], columns)
    padded = round_up(columns, 16 // dtype.itemsize)
    strides = (shape[-2] * padded, padded, 1)[-len(shape) :]
    return (shape, strides, dtype)


def _fused_gru_cell(
    input_gates: torch.Tensor,
    hidden_gates: torch.Tensor,
    hx: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> list[Metadata]:
    """cuda/RNN.cu, `_thnn_fused_gru_cell_cuda`: the new state, and five of its size for the backward pass."""
    rows, columns = hx.shape
    return [contiguous((rows, columns), hx.dtype), contiguous((rows, 5 * columns), hx.dtype)]


def _fused_gru_cell_backward(
    grad_hy: torch.Tensor, workspace: torch.Tensor, has_bias: bool
) -> list[Metadata | None]:
    """cuda/RNN.cu, `_thnn_fused_gru_cell_backward_cuda`: three gates twice, the state, the biases."""
    rows, columns = workspace.shape[0], workspace.shape[1] // 5
    gates = contiguous((rows, 3 * columns), workspace.dtype)
    bias = contiguous((3 * columns,), workspace.dtype) if has_bias else None
    return [gates, gates, contiguous(grad_hy.shape, grad_hy.dtype), bias, bias]


def _log_sigmoid_forward(input: torch.Tensor) -> list[Metadata]:
    """cuda/ActivationLogSigmoidKernel: CUDA keeps nothing for the backward pass, the CPU a buffer."""
    like = torch.empty_like(input, device="meta")
    return [(tuple(like.shape), like.stride(), like.dtype), contiguous((0,), input.dtype)]


# Operations without a Meta kernel of their own, or with one that refuses what CUDA accepts.
_RULES: dict[OpOverload, Callable[..., Any]] = {
    aten._fused_rms_norm.default: _fused_rms_norm,
    aten._fused_rms_norm_backward.default: _fused_rms_norm_backward,
    aten._grouped_mm.default: _grouped_mm,
    aten.log_sigmoid_forward.default: _log_sigmoid_forward,
    aten._thnn_fused_gru_cell.default: _fused_gru_cell,
    aten._thnn_fused_gru_cell_backward.default: _fused_gru_cell_backward,
}
RULED_OPERATIONS = tuple(_RULES)


def _key(value: Any) -> Any:
    """A hashable stand-in for an argument that fixes the metadata of the outputs."""
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.stride(), value.dtype, value.device.type)
    if isinstance(value, list | tuple):
        return tuple([_key(item) for item in value])
    if isinstance(value, torch.Generator):
        return None
    return (type(value), value)  # 1, 1.0 and True are equal in Python, not in type promotion


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.device.type != DEVICE_TYPE:
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, list | tuple):
        return [_on_meta(item) for item in value]
    if isinstance(value, torch.device):
        return torch.device("meta")
    if isinstance(value, torch.Generator):
        return None
    return value


def describe(value: Any) -> Any:
    """The Metadata of each tensor in `value`, other values as they are."""
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    return value


def describe_outputs(op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What `op` returns, in the nesting of its returns: Metadata per tensor, other values as they are.

    Raises UnsupportedOperation where the outputs depend on values or no Meta kernel exists.
    """
    key = (op, _key(args), _key(tuple(kwargs.items())) if kwargs else ())
    described = _described.get(key, _UNKNOWN)
    if described is _UNKNOWN:
        described = _described[key] = _compute(op, args, kwargs)
    return described


def call(op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call `op` with arguments as a Python kernel receives them: numbers stand where C++ had boxed them as
    tensors.

    Few overloads take numbers for tensors; of the others, the one for a Scalar is found by its argument
    types.
    """
    boxed = any(
        isinstance(value, int | float | complex) and isinstance(argument.type, torch.TensorType)
        for argument, value in zip(op._schema.arguments, args, strict=False)
    )
    return (op.overloadpacket if boxed else op)(*args, **kwargs)


def _compute(op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    rule = _RULES.get(op)
    if rule is not None:
        return rule(*args, **kwargs)
    try:
        described = describe(
            call(op, [_on_meta(a) for a in args], {name: _on_meta(a) for name, a in kwargs.items()})
        )
        lay = LAYOUTS.get(op)
        return described if lay is None else _laid(described, lay(arguments_of(op, args, kwargs)))
    except NotImplementedError as error:
        reason = "its output depends on values, or it has no Meta kernel; a simulated GPU holds no values"
        raise UnsupportedOperation(op._schema.name, reason) from error
    except RuntimeError as error:
        if "not on the expected device meta" not in str(error):
            raise
        found = "but found at least two devices, cuda:0 and cpu"
        raise RuntimeError(
            f"Expected all tensors to be on the same device, {found} ({op._schema.name})"
        ) from error


def _laid(described: Any, strides: tuple[int, ...]) -> Any:
    """The outputs with other strides of the first, where it is wanted."""
    if not isinstance(described, list):
        return (described[0], strides, described[2])
    return [_laid(described[0], strides), *described[1:]] if described[0] is not None else described
