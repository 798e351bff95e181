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
    return scratches(
        Scratch("grad output * output", output.numel() * output.element_size()),
        Scratch("contiguous grad output", dense_bytes(grad)),
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


_CHANNELS_LAST = (torch.channels_last,)

# SoftMax.cu (`host_softmax`), UpSample*.cu, *Pool*.cu. Each confirmed with torch 2.6, 2.11 and 2.14 on the
# virtual GPU (tests/gpu/simulated/tensors/test_requests.py).
COPIES = {
    "_softmax": _of("self"),
    "_log_softmax": _of("self"),
    "_softmax_backward_data": _softmax_backward,
    "_log_softmax_backward_data": _log_softmax_backward,
    "upsample_nearest2d": _of("self", formats=_CHANNELS_LAST),
    "upsample_nearest2d_backward": _of("grad_output", formats=_CHANNELS_LAST),
    "upsample_bilinear2d_backward": _of("grad_output", formats=_CHANNELS_LAST),
    "upsample_bicubic2d_backward": _of("grad_output"),
    "max_pool2d_with_indices": _of("self", formats=_CHANNELS_LAST),
    "avg_pool2d": _of("self", formats=_CHANNELS_LAST),
    "_adaptive_avg_pool2d": _of("self", before_outputs=True, formats=_CHANNELS_LAST),
    "im2col": _im2col,
}
