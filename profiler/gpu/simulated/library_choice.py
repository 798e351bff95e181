"""Composites that choose a CUDA library: the same choice, made for the simulated device."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from profiler.gpu.simulated import attention
from profiler.gpu.simulated.dispatch import machine, new_tensor, run_operation
from profiler.gpu.simulated.tensors.layouts import Metadata, contiguous
from profiler.gpu.simulated.tensors.outputs import arguments_of, describe_outputs

aten = torch.ops.aten
_NO_REDUCTION = 0
_CUDNN_BATCH_NORM_EPSILON = 1e-5  # CUDNN_BN_MIN_EPSILON is 0 since cuDNN 7.5; PyTorch keeps 1e-5


def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> torch.Tensor:
    """The composite with CUDA's choice of kernel."""
    with torch._C.DisableTorchFunction():
        device = machine("aten::scaled_dot_product_attention")
        return attention.by_chosen_kernel(
            *args, **kwargs, capability=device.capability, torch_version=device.torch_version
        )


def batch_norm_impl_index(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> tuple[Any, ...]:
    """Normalization.cpp, `_batch_norm_impl_index`: cuDNN where it can, else the native kernel.

    The number is the backend that the backward composite dispatches on (1: cuDNN, 0: native).
    """
    with torch._C.DisableTorchFunction():
        statistics = (running_mean is not None, running_var is not None)
        use_cudnn = (
            cudnn_enabled
            and torch.backends.cudnn.enabled
            and weight is not None
            and bias is not None
            and torch.bfloat16 not in (input.dtype, weight.dtype)
            and (input.dtype != torch.float16 or weight.dtype == torch.float32)
            and (all(statistics) or (training and not any(statistics)))
            and input.dim() >= 3
            and input.shape[0] <= (880801 if training else 65535)
            and eps >= _CUDNN_BATCH_NORM_EPSILON
            and input.numel() < 2**31 - 1
        )
        if use_cudnn:
            assert weight is not None
            assert bias is not None
            dense = input.contiguous(memory_format=torch._prims_common.suggest_memory_format(input))
            parts = aten.cudnn_batch_norm(
                dense,
                weight.contiguous(),
                bias.contiguous(),
                running_mean,
                running_var,
                training,
                momentum,
                eps,
            )
            return (*parts, 1)
        parts = aten.native_batch_norm(
            input, weight, bias, running_mean, running_var, training, momentum, eps
        )
        return (*parts, input.new_empty((0,), dtype=torch.uint8), 0)


def recurrent(op: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """LSTM, GRU and RNN run on cuDNN, with a reserve and a workspace whose sizes only cuDNN knows."""
    warnings.warn(
        f"{op._schema.name}: cuDNN's recurrent kernels are not modelled; simulated cell by cell",
        stacklevel=2,
    )
    # The compiled composite, with its fused cells; `op.decompose` would run the decomposition in Python.
    return op._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


def _convolution_format(input: torch.Tensor, weight: torch.Tensor) -> torch.memory_format:
    """ConvUtils.h, `cudnn_conv_suggest_memory_format`: channels last if the input or the weight is."""
    for tensor in (input, weight):
        suggested = torch._prims_common.suggest_memory_format(tensor)
        if suggested != torch.contiguous_format:
            return suggested
    return torch.contiguous_format


def convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """Convolution.cpp, `_convolution` on cuDNN: dense inputs, the output, then the bias added in place.

    The workspace of the cuDNN plan is opaque: it counts as 0 bytes.
    """
    with torch._C.DisableTorchFunction():
        if input.dim() == 3:  # cuDNN sees a 2-D convolution of height 1
            planar = convolution(
                input.contiguous().unsqueeze(2),
                weight.unsqueeze(2),
                bias,
                _for_planes(stride, 1),
                _for_planes(padding, 0),
                _for_planes(dilation, 1),
                transposed,
                _for_planes(output_padding, 0),
                groups,
            )
            return planar.squeeze(2)
        layout = _convolution_format(input, weight)
        dense_input = input.contiguous(memory_format=layout)
        output = new_tensor(
            _convolved(dense_input, weight, stride, padding, dilation, transposed, output_padding, groups),
            "aten::cudnn_convolution",
        )
        weight.contiguous(memory_format=layout)  # a copy for the kernel, where the layout is another
        del dense_input
        if bias is not None:
            output.add_(bias.reshape([1, -1, *[1] * (input.dim() - 2)]))
        return output


def _for_planes(values: Sequence[int], height: int) -> list[int]:
    return [height, values[0]] if len(values) == 1 else list(values)


def _convolved(input: torch.Tensor, weight: torch.Tensor, *options: Any) -> Metadata:
    def meta(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    shape = aten.convolution.default(meta(input), meta(weight), None, *options).shape
    like = torch.empty(
        shape, dtype=input.dtype, device="meta", memory_format=_convolution_format(input, weight)
    )
    return (tuple(shape), like.stride(), input.dtype)


def _is_depthwise(
    input: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    groups: int,
) -> bool:
    """Convolution.cpp, `is_depthwise` and `use_cudnn_depthwise`: PyTorch's own kernel, for planes that do not
    lie channels last; in float16 cuDNN takes the filters that it is fast with.
    """
    channels = input.shape[1]
    if transposed or input.dim() != 4 or channels != groups or groups == 1 or weight.shape[0] % channels:
        return False
    if _convolution_format(input, weight) != torch.contiguous_format:
        return False
    fast = input.dtype == torch.float16 and channels >= 32 and all(d == 1 for d in dilation)
    return not (fast and _is_fast_in_cudnn(input, weight, stride))


def _is_fast_in_cudnn(input: torch.Tensor, weight: torch.Tensor, stride: Sequence[int]) -> bool:
    """Convolution.cpp, `check_cudnn_depthwise_workload_with_filter`, for float16: from their measurements."""
    (batch, channels, height, width), (rows, size) = input.shape, weight.shape[2:]
    if height == 1 and stride[1] == 1:
        return True
    if (stride[0] != stride[1] and height != 1) or rows != size or size not in (1, 3, 5) or width < 7:
        return False
    if stride[1] != 2:
        return stride[1] == 1
    if batch == 1:
        return size > 1 or width <= 28
    if size == 1:
        return batch <= 16 and channels >= 128 and width <= 7
    return channels >= 512 or (channels >= 256 and width >= 28)


def convolution_backward(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Convolution.cpp, `convolution_backward` on cuDNN: grad of the input, of the weight, then a
    sum for the bias.
    """
    with torch._C.DisableTorchFunction():
        if input.dim() == 3:
            grads = convolution_backward(
                grad_output.unsqueeze(2),
                input.contiguous().unsqueeze(2),
                weight.unsqueeze(2),
                bias_sizes,
                _for_planes(stride, 1),
                _for_planes(padding, 0),
                _for_planes(dilation, 1),
                transposed,
                _for_planes(output_padding, 0),
                groups,
                output_mask,
            )
            return (*(g.squeeze(2) if g is not None else None for g in grads[:2]), grads[2])
        layout = _convolution_format(input, weight)
        axes = [0, *range(2, grad_output.dim())]
        if _is_depthwise(input, weight, stride, dilation, transposed, groups):
            # DepthwiseConv2d.cu: the gradient of the weight, then that of the input
            op = "aten::_conv_depthwise2d_backward"
            dense_grad = grad_output.contiguous()
            dense_input = input.contiguous() if output_mask[1] else input
            grad_weight = _like(weight, layout, op) if output_mask[1] else None
            del dense_input
            grad_input = _like(input, layout, op) if output_mask[0] else None
            del dense_grad
            return grad_input, grad_weight, grad_output.sum(axes) if output_mask[2] else None
        dense_input = input.contiguous(memory_format=layout) if output_mask[1] else input
        op = "aten::cudnn_convolution_backward"
        dense_grad, grad_input, grad_weight = _as_suggested(grad_output, dense_input, transposed), None, None
        if output_mask[0]:
            layout = _convolution_format(dense_grad, weight)
            grad_input = _like(dense_input, layout, op)
            copy = dense_grad.contiguous(memory_format=layout)
            weight.contiguous(memory_format=layout)
            del copy
        if output_mask[1]:
            layout = _convolution_format(dense_input, weight)
            copy = dense_grad.contiguous(memory_format=layout)
            grad_weight = _like(weight, layout, op)
            del copy
        del dense_grad, dense_input  # the bias sums the gradient as it came
        grad_bias = grad_output.sum(axes) if output_mask[2] else None
        return grad_input, grad_weight, grad_bias


def _as_suggested(grad: torch.Tensor, input: torch.Tensor, transposed: bool) -> torch.Tensor:
    """cudnn/ConvShared.cpp: the gradient in the format that the input suggests.

    `cudnn_convolution_backward` asks `to(format)`, which takes a gradient that suggests the same as it is,
    dense or not; the two kernels then each make a copy. The transposed one asks for a dense one.
    """
    suggest = torch._prims_common.suggest_memory_format
    layout = suggest(input)
    return grad if suggest(grad) == layout and not transposed else grad.contiguous(memory_format=layout)


def _like(tensor: torch.Tensor, layout: torch.memory_format, op: str) -> torch.Tensor:
    like = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta", memory_format=layout)
    return new_tensor((tuple(tensor.shape), like.stride(), tensor.dtype), op)


# --- losses whose result is more than a number, on the device -------------------------------------------


def loss_over_its_terms(op: torch._ops.OpOverload, in_place: bool, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Loss.cpp and cuda/Loss.cu: the result is made for a term of each element and resized to the number, so
    that its storage stays that large. The terms are computed in it (`in_place`), or in another tensor.
    """
    with torch._C.DisableTorchFunction():
        arguments = arguments_of(op, args, kwargs)
        if arguments["reduction"] == _NO_REDUCTION:
            return run_operation(op, *args, **kwargs)
        name = op._schema.name
        described = describe_outputs(op, list({**arguments, "reduction": _NO_REDUCTION}.values()), {})
        result = new_tensor(described, name)
        terms = result if in_place else new_tensor(described, name)
        if in_place:
            terms.sum()
        else:  # summed into the result
            device = machine(name)
            number = contiguous((), terms.dtype)
            with device.memory.scratch(device.scratch_of(aten.sum.default, (terms,), {}, number), name):
                pass
        return result.as_strided((), ())


def huber_loss(
    self: torch.Tensor, target: torch.Tensor, reduction: int = 1, delta: float = 1.0
) -> torch.Tensor:
    """Loss.cpp, `huber_loss`: the terms, then their mean or sum."""
    with torch._C.DisableTorchFunction():
        op = aten.huber_loss.default
        terms = run_operation(op, self, target, _NO_REDUCTION, delta)
        if reduction == _NO_REDUCTION:
            return terms
        return terms.mean() if reduction == 1 else terms.sum()


# --- the CTC loss of the native kernels: ATen/native/cuda/LossCTC.cu ------------------------------------


def _on_device(batch: int, op: str) -> list[torch.Tensor]:
    """Target lengths, input lengths, and where each target begins: one int64 a sequence."""
    return [new_tensor(contiguous((batch,), torch.int64), op) for _ in range(3)]


def ctc_loss(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Sequence[int],
    target_lengths: Sequence[int],
    blank: int = 0,
    zero_infinity: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`ctc_loss_gpu_template`: the loss of each sequence, and log_alpha for the backward pass."""
    op = "aten::_ctc_loss"
    with torch._C.DisableTorchFunction():
        length, batch = log_probs.shape[:2]
        lengths = _on_device(batch, op)
        states = 2 * max(target_lengths, default=0) + 1
        log_alpha = new_tensor(contiguous((batch, length, states), log_probs.dtype), op)
        loss = new_tensor(contiguous((batch,), log_probs.dtype), op)
        del lengths
        return loss, log_alpha


def ctc_loss_backward(
    grad: torch.Tensor,
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Sequence[int],
    target_lengths: Sequence[int],
    neg_log_likelihood: torch.Tensor,
    log_alpha: torch.Tensor,
    blank: int,
    zero_infinity: bool = False,
) -> torch.Tensor:
    """`ctc_loss_backward_gpu_template`: log_beta beside log_alpha, and for large problems the terms of the
    blanks in steps of their own.
    """
    op = "aten::_ctc_loss_backward"
    with torch._C.DisableTorchFunction():
        length, batch, labels = log_probs.shape
        lengths = _on_device(batch, op)
        log_beta = new_tensor(contiguous(log_alpha.shape, log_alpha.dtype), op)
        result = new_tensor(contiguous(log_probs.shape, log_probs.dtype), op)
        if 2 * length + 24 * batch // 10 + 2 * labels // 10 > 450:
            of_blanks = [_every_second(t) for t in (log_alpha, log_beta)]
            terms = aten.logsumexp(of_blanks[0] + of_blanks[1], [2], True).permute(1, 0, 2)
            terms.add_(neg_log_likelihood.view(1, batch, 1)).sub_(log_probs.narrow(2, blank, 1)).exp_()
            result.narrow(2, blank, 1).sub_(terms)
            del terms
            result.mul_(grad.view(1, batch, 1))
            if zero_infinity:
                is_infinite = neg_log_likelihood.view(1, batch, 1) == float("inf")
                result = torch.where(is_infinite, result.new_zeros(()), result)
        del lengths
        return result


def _every_second(states: torch.Tensor) -> torch.Tensor:
    """The blanks lie between the labels, and at both ends."""
    batch, length, number = states.shape
    rows, columns, step = states.stride()
    return states.as_strided((batch, length, number // 2 + 1), (rows, columns, 2 * step))
