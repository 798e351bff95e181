"""Scratch of scaled dot product attention: flash, memory-efficient and cuDNN's kernels.

The math path consists of visible ops only. The workspaces of cuDNN's attention are read off its plans.
"""

from profiler.gpu.cards import GPU
from profiler.gpu.kernels.scratch import Scratch, scratches
from profiler.units import divide_up, round_up


def flash_attention_forward(
    *,
    batch: int,
    heads: int,
    kv_heads: int,
    query_length: int,
    key_length: int,
    head_dim: int,
    gpu: GPU,
    dropout: float = 0.0,
) -> tuple[Scratch, ...]:
    """Scratch of `_scaled_dot_product_flash_attention`; head_dim after padding to a multiple of 8.

    Source: flash_attn/flash_api.cpp, mha_fwd and set_params_splitkv. With few blocks of queries
    (batch * heads * ceil(queries / 64) below 1.6 per multiprocessor) and no dropout, the keys are
    split and the parts' outputs kept in float32. Allocated between the outputs: after the output and
    its logsumexp, before the random state. With dropout the random state is allocated twice.
    Derived, not measured.
    """
    if dropout > 0:
        return (Scratch("first random state", 16),)
    if query_length == 1 and heads > kv_heads:
        # Grouped queries of one token become the rows of one head.
        query_length, heads = heads // kv_heads, kv_heads
    key_block = 256 if head_dim <= 64 else (128 if head_dim <= 128 else 64)
    splits = _split_count(
        batch * heads * divide_up(query_length, 64), 2 * gpu.sms, divide_up(key_length, key_block)
    )
    if splits == 1:
        return ()
    rows = splits * batch * heads * query_length
    return scratches(
        Scratch("logsumexp of splits", rows * 4),
        Scratch("output of splits", rows * _rounded_head_dim(head_dim) * 4),
    )


def flash_attention_backward(
    *,
    batch: int,
    heads: int,
    kv_heads: int,
    query_length: int,
    key_length: int,
    head_dim: int,
    element_bytes: int,
    gpu: GPU,
    grad_output_contiguous: bool = True,
    output_contiguous: bool = True,
    deterministic: bool = False,
) -> tuple[Scratch, ...]:
    """Scratch of `_scaled_dot_product_flash_attention_backward`.

    Source: flash_api.cpp, mha_bwd; attention_backward.cu. grad_output_contiguous,
    output_contiguous: in [batch, length, heads, head_dim] order, else they are copied first.
    The float32 accumulator of the query gradient is the large one. Derived, not measured.
    """
    tensor_bytes = batch * query_length * heads * head_dim * element_bytes
    padded_queries = round_up(query_length, 128)
    accumulator_bytes = batch * padded_queries * heads * _rounded_head_dim(head_dim) * 4
    if deterministic:
        accumulator_bytes *= divide_up(gpu.sms, batch * heads)
    expanded_bytes = batch * key_length * heads * head_dim * element_bytes if kv_heads != heads else 0
    return scratches(
        Scratch("contiguous grad output", 0 if grad_output_contiguous else tensor_bytes, "op", 0, True),
        Scratch("contiguous output", 0 if output_contiguous else tensor_bytes, "op", 0, True),
        Scratch("softmax gradient sums", batch * heads * padded_queries * 4),
        Scratch("query gradient accumulator", accumulator_bytes),
        Scratch("expanded key gradient", expanded_bytes),
        Scratch("expanded value gradient", expanded_bytes),
    )


def _rounded_head_dim(head_dim: int) -> int:
    return round_up(head_dim, 32 if head_dim <= 128 else 64)


def _split_count(query_blocks: int, processors: int, key_blocks: int) -> int:
    """`num_splits_heuristic`: the fewest splits within 85 % of the best use of the processors."""
    if query_blocks >= 0.8 * processors:
        return 1
    max_splits = min(128, processors, key_blocks)
    efficiency = {}
    for splits in range(1, max_splits + 1):
        if splits == 1 or divide_up(key_blocks, splits) != divide_up(key_blocks, splits - 1):
            waves = query_blocks * splits / processors
            efficiency[splits] = waves / divide_up(query_blocks * splits, processors)
    best = max(efficiency.values())
    return next(splits for splits, value in efficiency.items() if value >= 0.85 * best)


def efficient_attention_forward(
    *, batch: int, heads: int, query_length: int, value_dim: int, element_bytes: int
) -> tuple[Scratch, ...]:
    """Scratch of `_scaled_dot_product_efficient_attention`.

    Source: attention.cu (_efficient_attention_forward) and mem_eff_attention/kernel_forward.h:
    16-bit outputs with value_dim > 128 do not fit the registers and are accumulated in float32.
    Derived, not measured.
    """
    if element_bytes != 2 or value_dim <= 128:
        return ()
    return (Scratch("output accumulator", batch * query_length * heads * value_dim * 4),)


def efficient_attention_backward(
    *,
    batch: int,
    heads: int,
    query_length: int,
    key_length: int,
    head_dim: int,
    value_dim: int,
    element_bytes: int,
    gpu: GPU,
    kv_heads: int | None = None,
    dropout: bool = False,
    grad_output_contiguous: bool = True,
) -> tuple[Scratch, ...]:
    """Scratch of `_scaled_dot_product_efficient_attention_backward` on capability 7.5 or later.

    With fewer kv_heads than heads the gradients of keys and values are first those of all heads.

    Source: attention_backward.cu, mem_eff_attention/kernel_backward.h (workspace_size, Params),
    kernels/cutlassB.h (order of the kernels). The workspace holds tiles of the query gradient and,
    when 16-bit gradients of keys and values do not fit the registers, those too.
    Evidence: what torch 2.14 asks for on virtual T4, RTX 3090, RTX 4090, A100, RTX 5090 and B200, 120 shapes
    each (float16 and float32, head sizes 16 to 256, with and without dropout). Raises ValueError below
    capability 7.5.
    """
    if gpu.capability < (7, 5):
        raise ValueError(
            f"memory-efficient attention backward is not modelled for capability {gpu.capability}"
        )
    half = element_bytes == 2
    largest_dim = max(head_dim, value_dim)
    block_i, block_j, kernel_dim = _backward_block(largest_dim, half, dropout, gpu)
    in_registers = half and kernel_dim <= block_i

    tile_bytes = 16 + 4 * block_i * block_j
    tiles = divide_up(query_length, block_i) * divide_up(head_dim, block_j)
    elements = tiles * tile_bytes // 4
    if half and not in_registers:
        splits = divide_up(key_length, block_j)
        if batch * heads >= 256 and key_length <= 2 * block_j:
            splits = 1
        splits = max(1, min(splits, 200 // (batch * heads)))
        elements += splits * block_j * (round_up(head_dim, block_i) + round_up(value_dim, block_i))
    workspace_bytes = batch * heads * round_up(elements, 4) * 4

    rows_bytes = batch * heads * query_length * 4
    found = []
    if not grad_output_contiguous:
        copy_bytes = batch * query_length * heads * value_dim * element_bytes
        found.append(Scratch("contiguous grad output", copy_bytes, "op", 0, True))
    if kv_heads is not None and kv_heads != heads:
        rows = batch * heads * key_length * element_bytes
        found += [
            Scratch("key gradient of all heads", rows * head_dim),
            Scratch("value gradient of all heads", rows * value_dim),
        ]
    if not half:
        found += [
            Scratch("grad output * output", rows_bytes * value_dim, "stage"),
            Scratch(
                "sums of grad output * output",
                rows_bytes,
                "stage",
                until=1 if 1 in (heads, query_length) else 0,
            ),
        ]
    if half or 1 not in (heads, query_length):
        found.append(Scratch("delta", rows_bytes, "stage", until=1))
    found.append(Scratch("workspace", workspace_bytes, "stage", 1, until=2))
    return scratches(*found)


def _backward_block(largest_dim: int, half: bool, dropout: bool, gpu: GPU) -> tuple[int, int, int]:
    """(kBlockSizeI, kBlockSizeJ, kMaxK) of the first kernel of cutlassB.h that fits."""
    major = gpu.capability[0]
    small_shared_memory = gpu.capability in ((8, 6), (8, 9)) or major in (7, 12)
    if largest_dim <= 64:
        return 64, 64, 64
    if half and not dropout and largest_dim <= 96 and gpu.capability in ((8, 6), (8, 9)):
        return 128, 64, 96
    if largest_dim <= 128:
        if half and major == 7:
            return 128, 64, 128
        if small_shared_memory:
            return 64, 64, 128
        return (128, 128, 128) if half else (128, 64, 128)
    return (64 if small_shared_memory and not half else 128), 64, 65536


def cudnn_attention_forward(gpu: GPU) -> tuple[Scratch, ...]:
    """Workspace of cuDNN's attention: its plan for capability 9.0 takes 256 bytes, those for others nothing.

    Evidence: the plans of cuDNN 9.24 for described cards (docs/virtual_gpu_cudnn.md).
    """
    return (Scratch("cuDNN workspace", 256, "stage"),) if gpu.capability[0] == 9 else ()


def cudnn_attention_backward(
    *,
    batch: int,
    heads: int,
    kv_heads: int,
    query_length: int,
    key_length: int,
    head_dim: int,
    value_dim: int,
    element_bytes: int,
    gpu: GPU,
) -> tuple[Scratch, ...]:
    """Workspace of the backward pass of cuDNN's attention.

    It holds the query gradient in 32 bits, a sum a row, and for grouped queries the gradients of keys and
    values of all heads; the plans for 8.x and 12.x, and for 10.x below 128 queries, hold the query gradient
    twice, once with the queries padded to a multiple of 8. Head sizes above 128 on 10.x: only the sums.

    Evidence: plans of cuDNN 9.24 for described cards, 25 shapes on A100, RTX 4090, RTX 5090, H100 and B200
    (docs/virtual_gpu_cudnn.md); no recording on a GPU. Between 78 and 128 queries on 10.x: assumed.
    """
    row_sums_bytes = batch * heads * query_length * 4
    row_bytes = batch * heads * head_dim * 4
    major = gpu.capability[0]
    size_bytes = row_sums_bytes
    if kv_heads != heads:
        size_bytes += batch * heads * key_length * (head_dim + value_dim) * element_bytes
    if major == 9:
        size_bytes += row_bytes * query_length + 256
    elif major == 10 and query_length > 128:
        size_bytes += row_bytes * query_length if head_dim <= 128 else 0
    else:
        size_bytes += row_bytes * (query_length + round_up(query_length, 8)) + 128
    return (Scratch("cuDNN workspace", size_bytes, "stage"),)
