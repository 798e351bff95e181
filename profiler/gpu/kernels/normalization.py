"""Scratch of layer_norm, rms_norm, group_norm and batch_norm."""

from profiler.gpu.cards import GPU
from profiler.gpu.kernels.reduction import reduction
from profiler.gpu.kernels.scratch import Scratch, scratches
from profiler.units import divide_up


def layer_norm_backward(
    rows: int,
    width: int,
    element_bytes: int,
    gpu: GPU,
    *,
    weight_grad: bool = True,
    bias_grad: bool = True,
    torch_version: tuple[int, int] = (2, 13),
) -> tuple[Scratch, ...]:
    """Scratch of native_layer_norm_backward (bias_grad False: the fused rms_norm backward).

    Source: layer_norm_kernel.cu, LaunchGammaBetaBackwardCUDAKernel. Only beyond 65,536 rows, and
    for widths below 32 * (multiprocessors / 2): partial sums of the weight and bias gradients in the
    dtype of the weight, one row per 32 input rows at most, then `.sum(0)` of each. The summed tensor
    takes the place of the output allocated before. A forward pass has no scratch.

    Evidence: none needed at 4,096 rows, 10 published peaks on A100 and H100 to the byte; the
    branch with partial sums is derived, not measured.
    """
    if rows <= 64 * 1024 or width // 32 >= gpu.sms // 2:
        return ()
    grid_x = divide_up(width, 32)
    partial_rows = min(32 * 1024 // grid_x, divide_up(rows, 32))
    names = [name for name, wanted in (("weight", weight_grad), ("bias", bias_grad)) if wanted]
    partial_bytes = partial_rows * width * element_bytes
    found = [Scratch(f"partial {name} gradients", partial_bytes) for name in names]
    for stage, name in enumerate(names, start=1):
        found.append(Scratch(f"summed {name} gradient", width * element_bytes, "op", stage))
        sums = reduction((partial_rows, width), (0,), element_bytes, gpu, torch_version=torch_version)
        found += [Scratch(scratch.name, scratch.size_bytes, "stage", stage) for scratch in sums]
    return scratches(*found)


def group_norm_forward(
    batch: int, channels: int, positions: int, element_bytes: int, affine: bool = True
) -> tuple[Scratch, ...]:
    """Scratch of native_group_norm over [batch, channels, positions].

    Source: group_norm_kernel.cu, GroupNormKernelImplInternal: scale and shift of each channel, in
    the accumulation type, for more than one position and a weight or bias. Allocated after the
    outputs. Derived, not measured (published peaks are reached in the backward pass).
    """
    if positions == 1 or not affine:
        return ()
    channel_bytes = batch * channels * max(element_bytes, 4)
    return scratches(Scratch("scale", channel_bytes), Scratch("shift", channel_bytes))


def group_norm_backward(
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    element_bytes: int,
    *,
    weight: bool = True,
    input_grad: bool = True,
) -> tuple[Scratch, ...]:
    """Scratch of native_group_norm_backward over [batch, channels, positions].

    Source: group_norm_kernel.cu, GroupNormBackwardKernelImplInternal, in the accumulation type.

    Evidence: 21 published peaks on a B200 (float32, 32 to 2,048 channels), to the byte.
    """
    accumulator_bytes = max(element_bytes, 4)
    channel_bytes = batch * channels * accumulator_bytes
    group_bytes = batch * groups * accumulator_bytes
    found = [Scratch("sums of grad * input", channel_bytes), Scratch("sums of grad", channel_bytes)]
    if input_grad:
        found += [Scratch("coefficient 2", group_bytes), Scratch("coefficient 3", group_bytes)]
        if weight and positions > 1:
            # Declared first, but empty until its iterator is built.
            found.append(Scratch("coefficient 1", channel_bytes))
    return scratches(*found)


def batch_norm_channels_last(channels: int, rows: int, backward: bool = False) -> tuple[Scratch, ...]:
    """Scratch of one reduction of PyTorch's own batch_norm on channels-last tensors.

    rows: elements / channels.

    Source: Normalization.cuh, batch_norm_stats_channels_last_cuda_template and
    batch_norm_backward_reduce_cuda_channels_last_template: partial results in float32 and semaphores
    when the reduction takes 8 or more blocks. Other layouts of the native kernels need nothing; the
    cuDNN path (the default for most training) has an opaque workspace. Derived, not measured.
    """
    block_x = min(_last_power_of_2(channels), 32)
    block_y = min(_last_power_of_2(divide_up(rows, 16)), 512 // block_x)
    if block_x * block_y != 512:
        block_x = min(_last_power_of_2(channels), 512 // block_y)
    grid_y = min(divide_up(rows, block_y * 16), 128)
    if grid_y < 8:
        return ()
    values = 2 if backward else 4
    return (
        Scratch("partial results", values * channels * grid_y * 4, "stage"),
        Scratch("semaphores", divide_up(channels, block_x) * 4, "stage"),
    )


def _last_power_of_2(value: int) -> int:
    return 1 << (max(value, 1).bit_length() - 1)
