"""Copies that kernels make of operands that do not lie as they want them: after the outputs, unless said."""

from collections.abc import Sequence
from typing import Any

import torch

from profiler.gpu.cards import GPU
from profiler.gpu.kernels import Scratch, scratches


def dense_bytes(tensor: torch.Tensor, *also: torch.memory_format) -> int:
    """Bytes of a contiguous copy; 0 for a tensor that is contiguous, or dense in one of the other formats."""
    if any(tensor.is_contiguous(memory_format=layout) for layout in (torch.contiguous_format, *also)):
        return 0
    return tensor.numel() * tensor.element_size()


def _of(name: str, before_outputs: bool = False, formats: Sequence[torch.memory_format] = ()) -> Any:
    def rule(arguments: dict[str, Any], described: Any, gpu: GPU, version: Any) -> tuple[Scratch, ...]:
        size_bytes = dense_bytes(arguments[name], *formats)
        return scratches(Scratch(f"contiguous {name}", size_bytes, before_outputs=before_outputs))

    return rule


def _softmax_backward(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: Any
) -> tuple[Scratch, ...]:
    """SoftMax.cu, `softmax_backward_cuda_out`: grad * output is the gradient of the kernel, which copies both
    operands where they are not contiguous.
    """
    grad, output = arguments["grad_output"], arguments["output"]
    both = (torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in (grad, output))
    product = torch.mul(*both)
    return scratches(
        Scratch("grad output * output", output.numel() * output.element_size()),
        Scratch("contiguous product", dense_bytes(product) and output.numel() * output.element_size()),
        Scratch("contiguous output", dense_bytes(output)),
    )


def _log_softmax_backward(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: Any
) -> tuple[Scratch, ...]:
    names = ("grad_output", "output")
    return scratches(*(Scratch(f"contiguous {name}", dense_bytes(arguments[name])) for name in names))


def _im2col(arguments: dict[str, Any], described: Any, gpu: GPU, version: Any) -> tuple[Scratch, ...]:
    """Im2Col.cu, `im2col_cuda`: the result is made as large as the input, and resized."""
    tensor = arguments["self"]
    return scratches(
        Scratch("result before it is resized", tensor.numel() * tensor.element_size(), before_outputs=True),
        Scratch("contiguous self", dense_bytes(tensor), before_outputs=True),
    )


def _as_input_suggests(
    *names: str, tensor: str = "self", before_outputs: bool = False, only_dense: bool = False
) -> Any:
    """Copies of these operands in the format that `tensor` suggests; `only_dense`: unless channels last."""

    def rule(arguments: dict[str, Any], described: Any, gpu: GPU, version: Any) -> tuple[Scratch, ...]:
        layout = torch._prims_common.suggest_memory_format(arguments[tensor])
        if only_dense and layout != torch.contiguous_format:
            return ()
        return scratches(
            *(
                Scratch(f"contiguous {name}", _bytes_in(arguments[name], layout), "op", 0, before_outputs)
                for name in names
            )
        )

    return rule


def _bytes_in(tensor: torch.Tensor, layout: torch.memory_format) -> int:
    if tensor.is_contiguous(memory_format=layout):
        return 0
    return tensor.numel() * tensor.element_size()


def _channels_last_copy(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: Any
) -> tuple[Scratch, ...]:
    """UpSampleBilinear2d.cu: of 16 channels or more, channels last; else the kernel goes by strides."""
    tensor = arguments["self"]
    layout = torch._prims_common.suggest_memory_format(tensor)
    is_copied = layout == torch.channels_last and tensor.shape[1] >= 16
    return scratches(Scratch("contiguous self", _bytes_in(tensor, layout) if is_copied else 0))


def _unless_copied(rule: Any) -> Any:
    """UpSample*.cu: where input and output are of one size, the kernel is a copy of one into the other."""

    def found(arguments: dict[str, Any], described: Any, gpu: GPU, version: Any) -> tuple[Scratch, ...]:
        tensor = arguments["grad_output"] if "grad_output" in arguments else arguments["self"]
        same: bool = described[0][2:] == tuple(tensor.shape[2:])
        return () if same else rule(arguments, described, gpu, version)

    return found


_CHANNELS_LAST = (torch.channels_last,)

# SoftMax.cu (`host_softmax`), UpSample*.cu, *Pool*.cu, ReflectionPad.cu, `roll_cuda`,
# cudnn/BatchNorm.cpp. Each confirmed with torch 2.6, 2.11 and 2.14 on the virtual GPU
# (tests/gpu/simulated/tensors/test_requests.py).
COPIES = {
    "_softmax": _of("self"),
    "_log_softmax": _of("self"),
    "_softmax_backward_data": _softmax_backward,
    "_log_softmax_backward_data": _log_softmax_backward,
    "upsample_nearest2d": _unless_copied(_of("self", formats=_CHANNELS_LAST)),
    "upsample_nearest2d_backward": _unless_copied(_of("grad_output", formats=_CHANNELS_LAST)),
    "upsample_bilinear2d": _unless_copied(_channels_last_copy),
    "upsample_bilinear2d_backward": _unless_copied(_of("grad_output", formats=_CHANNELS_LAST)),
    "upsample_bicubic2d_backward": _of("grad_output"),
    "max_pool2d_with_indices": _of("self", formats=_CHANNELS_LAST),
    "avg_pool2d": _of("self", formats=_CHANNELS_LAST),
    "_adaptive_avg_pool2d": _as_input_suggests("self", before_outputs=True, only_dense=True),
    "max_pool2d_with_indices_backward": _as_input_suggests("self", "grad_output"),
    "avg_pool2d_backward": _as_input_suggests("self", "grad_output"),
    "_adaptive_avg_pool2d_backward": _as_input_suggests("grad_output", only_dense=True),
    "adaptive_max_pool2d": _of("self"),
    "reflection_pad1d": _of("self"),
    "reflection_pad1d_backward": _of("grad_output"),
    "reflection_pad2d": _of("self"),
    "reflection_pad2d_backward": _of("grad_output"),
    "roll": _of("self", before_outputs=True),
    "cudnn_batch_norm_backward": _as_input_suggests("grad_output", tensor="input", before_outputs=True),
    "im2col": _im2col,
}
