"""The operations of the probes: each prepares its operands and returns what is to be recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from profiler.reference.probe import Probe

Operate = Callable[[], object]


def _floats(probe: Probe, device: torch.device, *shape: int, grad: bool = False) -> torch.Tensor:
    return torch.ones(shape, dtype=getattr(torch, probe.dtype), device=device, requires_grad=grad)


def _images(probe: Probe, device: torch.device, *shape: int) -> torch.Tensor:
    """Four dimensions in the probe's layout, with a gradient to come."""
    layout = getattr(torch, probe.option or "contiguous_format")
    return _floats(probe, device, *shape).contiguous(memory_format=layout).requires_grad_()


def _integers(high: int, device: torch.device, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, device=device)


def _backward(output: torch.Tensor, inputs: Sequence[torch.Tensor]) -> Operate:
    gradient = torch.ones_like(output)
    return lambda: torch.autograd.grad(output, inputs, gradient)


def column_sum(probe: Probe, device: torch.device) -> Operate:
    """Sum of [rows, columns] over the rows, as a bias gradient is."""
    matrix = _floats(probe, device, *probe.shape)
    return lambda: matrix.sum(0)


def row_mean(probe: Probe, device: torch.device) -> Operate:
    """Mean of [rows, columns] over the columns."""
    matrix = _floats(probe, device, *probe.shape)
    return lambda: matrix.mean(1)


def total_sum(probe: Probe, device: torch.device) -> Operate:
    """Sum of [elements] to one number."""
    vector = _floats(probe, device, *probe.shape)
    return vector.sum


def matrix_product(probe: Probe, device: torch.device) -> Operate:
    """[m, k] times [k, n], for m × k × n. The first on a thread takes cuBLAS's workspace."""
    m, k, n = probe.shape
    left, right = _floats(probe, device, m, k), _floats(probe, device, k, n)
    return lambda: left @ right


def linear_backward(probe: Probe, device: torch.device) -> Operate:
    """Gradients of the weight, the bias and the input of a linear layer, for rows × inputs × outputs."""
    rows, inputs, outputs = probe.shape
    operands = [
        _floats(probe, device, rows, inputs, grad=True),
        _floats(probe, device, outputs, inputs, grad=True),
        _floats(probe, device, outputs, grad=True),
    ]
    return _backward(torch.nn.functional.linear(*operands), operands)


def embedding_backward(probe: Probe, device: torch.device) -> Operate:
    """Gradient of a table of [vocabulary, width] looked up by [indices], for vocabulary × width × indices."""
    vocabulary, width, indices = probe.shape
    table = _floats(probe, device, vocabulary, width, grad=True)
    return _backward(torch.nn.functional.embedding(_integers(vocabulary, device, indices), table), [table])


def attention(probe: Probe, device: torch.device) -> Operate:
    """Causal scaled dot product attention, for batch × heads × length × head size."""
    query, key, value = (_floats(probe, device, *probe.shape, grad=True) for _ in range(3))
    return lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def attention_backward(probe: Probe, device: torch.device) -> Operate:
    """The gradients of `attention`."""
    query, key, value = (_floats(probe, device, *probe.shape, grad=True) for _ in range(3))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return _backward(output, [query, key, value])


def grouped_attention_backward(probe: Probe, device: torch.device) -> Operate:
    """The gradients of attention in which four heads share keys and values, for `attention`'s sizes."""
    batch, heads, length, width = probe.shape
    query = _floats(probe, device, *probe.shape, grad=True)
    key, value = (_floats(probe, device, batch, heads // 4, length, width, grad=True) for _ in range(2))
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    return _backward(output, [query, key, value])


def layer_norm_backward(probe: Probe, device: torch.device) -> Operate:
    """Gradients of the input, the weight and the bias of a layer norm over the rows of [rows, width]."""
    rows, width = probe.shape
    weights = [_floats(probe, device, width, grad=True) for _ in range(2)]
    rows_in = _floats(probe, device, rows, width, grad=True)
    return _backward(
        torch.nn.functional.layer_norm(rows_in, (width,), weights[0], weights[1]), [rows_in, *weights]
    )


def rms_norm_backward(probe: Probe, device: torch.device) -> Operate:
    """Gradients of the input and the weight of an RMS norm over the rows of [rows, width]."""
    rows, width = probe.shape
    weight, rows_in = _floats(probe, device, width, grad=True), _floats(probe, device, rows, width, grad=True)
    return _backward(torch.nn.functional.rms_norm(rows_in, (width,), weight), [rows_in, weight])


def group_norm_backward(probe: Probe, device: torch.device) -> Operate:
    """Gradients of a group norm in 32 groups, for batch × channels × height × width."""
    weights = [_floats(probe, device, probe.shape[1], grad=True) for _ in range(2)]
    images = _floats(probe, device, *probe.shape, grad=True)
    return _backward(torch.nn.functional.group_norm(images, 32, weights[0], weights[1]), [images, *weights])


def batch_norm(probe: Probe, device: torch.device) -> Operate:
    """A batch norm in training, for batch × channels × height × width."""
    images, normalize = _batch_norm(probe, device)
    return lambda: normalize(images)


def batch_norm_backward(probe: Probe, device: torch.device) -> Operate:
    """The gradient of `batch_norm`'s input."""
    images, normalize = _batch_norm(probe, device)
    return _backward(normalize(images), [images])


def _batch_norm(
    probe: Probe, device: torch.device
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    mean, variance, weight, bias = (_floats(probe, device, probe.shape[1]) for _ in range(4))
    batch_norm = torch.nn.functional.batch_norm
    return _images(probe, device, *probe.shape), lambda images: batch_norm(
        images, mean, variance, weight, bias, training=True
    )


def sort(probe: Probe, device: torch.device) -> Operate:
    """Sort of each row of [rows, items]."""
    matrix = _floats(probe, device, *probe.shape)
    return lambda: matrix.sort(-1)


def topk(probe: Probe, device: torch.device) -> Operate:
    """The largest k of each row, for rows × items × k."""
    rows, items, k = probe.shape
    matrix = _floats(probe, device, rows, items)
    return lambda: matrix.topk(k)


def cumsum(probe: Probe, device: torch.device) -> Operate:
    """Running sum along the last dimension."""
    numbers = _floats(probe, device, *probe.shape)
    return lambda: numbers.cumsum(-1)


def convolution(probe: Probe, device: torch.device) -> Operate:
    """A 3 × 3 convolution with padding 1, for batch × channels in × channels out × side."""
    images, weight = _convolution_operands(probe, device)
    return lambda: torch.nn.functional.conv2d(images, weight, padding=1)


def convolution_backward(probe: Probe, device: torch.device) -> Operate:
    """The gradients of `convolution`."""
    images, weight = _convolution_operands(probe, device)
    return _backward(torch.nn.functional.conv2d(images, weight, padding=1), [images, weight])


def _convolution_operands(probe: Probe, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    batch, channels_in, channels_out, side = probe.shape
    return (
        _images(probe, device, batch, channels_in, side, side),
        _images(probe, device, channels_out, channels_in, 3, 3),
    )


def clip_grad_norm(probe: Probe, device: torch.device) -> Operate:
    """torch.nn.utils.clip_grad_norm_ over gradients of [width, width], for count × width."""
    count, width = probe.shape
    parameters = [_floats(probe, device, width, width, grad=True) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = _floats(probe, device, width, width)
    return lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0)


def index_put(probe: Probe, device: torch.device) -> Operate:
    """Accumulation of rows into a table of [vocabulary, width], for vocabulary × width × indices."""
    vocabulary, width, indices = probe.shape
    table, rows = _floats(probe, device, vocabulary, width), _floats(probe, device, indices, width)
    index = _integers(vocabulary, device, indices)
    return lambda: table.index_put_((index,), rows, accumulate=True)


def cross_entropy_backward(probe: Probe, device: torch.device) -> Operate:
    """Gradient of the mean cross entropy of [rows, classes]."""
    rows, classes = probe.shape
    scores = _floats(probe, device, rows, classes, grad=True)
    return _backward(torch.nn.functional.cross_entropy(scores, _integers(classes, device, rows)), [scores])


OPERATIONS: dict[str, Callable[[Probe, torch.device], Operate]] = {
    operation.__name__: operation
    for operation in (
        column_sum,
        row_mean,
        total_sum,
        matrix_product,
        linear_backward,
        embedding_backward,
        attention,
        attention_backward,
        grouped_attention_backward,
        layer_norm_backward,
        rms_norm_backward,
        group_norm_backward,
        batch_norm,
        batch_norm_backward,
        sort,
        topk,
        cumsum,
        convolution,
        convolution_backward,
        clip_grad_norm,
        index_put,
        cross_entropy_backward,
    )
}
