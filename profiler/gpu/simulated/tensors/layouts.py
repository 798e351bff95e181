"""How tensors lie: strides of outputs, where CUDA's kernels choose others than the Meta kernels say."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

aten = torch.ops.aten

# A tensor described: shape, strides, dtype.
Metadata = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def contiguous(shape: Sequence[int], dtype: torch.dtype) -> Metadata:
    """The metadata of a contiguous tensor."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return (tuple(shape), tuple(strides), dtype)


def is_reduced(arguments: dict[str, Any]) -> bool:
    """Normalization.cu, `batch_norm_backward_cuda`: in training, and for the gradients of weight and bias."""
    return bool(arguments["train"]) or any(arguments["output_mask"][1:])


def is_reduced_by_channels(arguments: dict[str, Any]) -> bool:
    """The same: a reduction and a kernel over the elements, channels last."""
    return is_reduced(arguments) and lies_by_channels(arguments["input"])


def views_as_rows(tensor: torch.Tensor) -> bool:
    """Whether [batch, channels, the rest] is a view; else it is a copy."""
    try:
        torch.empty_strided(tensor.shape, tensor.stride(), device="meta").view(*tensor.shape[:2], -1)
    except RuntimeError:
        return False
    return True


def lies_by_channels(tensor: torch.Tensor) -> bool:
    """Normalization.cu, `batch_norm_use_channels_last_kernels`: channels last, or contiguous with nothing
    behind the channels, as [batch, channels] is.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if tensor.dim() in formats and tensor.is_contiguous(memory_format=formats[tensor.dim()]):
        return True
    return tensor.is_contiguous() and tensor.stride(1) == 1


def _as_product(*names: str) -> Callable[[dict[str, Any]], tuple[int, ...]]:
    """Elementwise kernels over these two, in this order, as TensorIterator lays their result."""

    def strides(arguments: dict[str, Any]) -> tuple[int, ...]:
        tensors = [arguments[name] for name in names]
        first, second = (torch.empty_strided(t.shape, t.stride(), device="meta") for t in tensors)
        return (first * second).stride()

    return strides


def _like_gradient(arguments: dict[str, Any]) -> tuple[int, ...]:
    """ActivationLogSigmoid: `empty_like` of the gradient."""
    grad = arguments["grad_output"]
    return torch.empty_like(torch.empty_strided(grad.shape, grad.stride(), device="meta")).stride()


def _dense(name: str) -> Callable[[dict[str, Any]], tuple[int, ...]]:
    """Contiguous, in the shape of this argument."""
    return lambda arguments: contiguous(arguments[name].shape, arguments[name].dtype)[1]


def _batch_norm_backward(arguments: dict[str, Any]) -> tuple[int, ...]:
    """Normalization.cu, `batch_norm_backward_cuda`: as the input in training, channels last."""
    tensor: torch.Tensor = arguments["input"]
    as_it_came = arguments["train"] and lies_by_channels(tensor)
    return tensor.stride() if as_it_came else contiguous(tensor.shape, tensor.dtype)[1]


def _cudnn_batch_norm_backward(arguments: dict[str, Any]) -> tuple[int, ...]:
    """cudnn/BatchNorm.cpp: in the format that the input suggests."""
    tensor = arguments["input"]
    layout = torch._prims_common.suggest_memory_format(tensor)
    return torch.empty(tensor.shape, device="meta", memory_format=layout).stride()


# Strides of the first output. Each found and confirmed on the virtual GPU, with operands contiguous, channels
# last and transposed (tests/gpu/simulated/tensors/test_layouts.py).
LAYOUTS: dict[OpOverload, Callable[[dict[str, Any]], tuple[int, ...]]] = {
    aten.threshold_backward.default: _as_product("self", "grad_output"),
    aten.leaky_relu_backward.default: _as_product("self", "grad_output"),
    aten.log_sigmoid_backward.default: _like_gradient,
    aten.binary_cross_entropy_backward.default: _as_product("grad_output", "self"),
    aten.softplus_backward.default: _as_product("grad_output", "self"),
    aten.hardtanh_backward.default: _as_product("grad_output", "self"),
    aten.hardsigmoid_backward.default: _as_product("grad_output", "self"),
    aten.hardswish_backward.default: _as_product("grad_output", "self"),
    aten.logit_backward.default: _as_product("grad_output", "self"),
    aten.elu_backward.default: _as_product("grad_output", "self_or_result"),
    aten.glu_backward.default: _dense("self"),  # GLU: `glu_backward_cuda_out` resizes an empty tensor
    aten.mse_loss_backward.default: _dense("self"),  # Loss.cpp
    aten._log_softmax_backward_data.default: _dense("grad_output"),
    aten.native_layer_norm_backward.default: _dense("input"),
    aten.native_group_norm_backward.default: _dense("input"),
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.cudnn_batch_norm_backward.default: _cudnn_batch_norm_backward,
}
