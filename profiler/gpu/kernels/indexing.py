"""Scratch of ops that look up, write or order by index: embedding, indexing, nonzero, topk, sort, scan."""

from math import prod

from profiler.gpu.cards import GPU
from profiler.gpu.kernels import cub
from profiler.gpu.kernels.scratch import Scratch, scratches
from profiler.units import divide_up, round_up

SMALL_SORT_ITEMS = 4096


def embedding_dense_backward(
    indices: int,
    vocabulary: int,
    width: int,
    element_bytes: int,
    gpu: GPU,
    *,
    index_bytes: int = 8,
    padding_index: int = -1,
    scale_by_frequency: bool = False,
    deterministic: bool = False,
    torch_version: tuple[int, int] = (2, 14),
) -> tuple[Scratch, ...]:
    """Scratch of `embedding_dense_backward` for `indices` tokens of a [vocabulary, width] weight.

    Source: Embedding.cu (embedding_dense_backward_cuda), EmbeddingBackwardKernel.cu. Up to 3,072
    indices nothing. More: the indices are sorted; segments of equal indices are cut into parts of
    10 rows; the float32 sums of all parts, P x width with P = indices / 10 + min(indices, vocabulary),
    are the large buffer. Since 2.11 (pull request 172454), few segments on a large card take an atomic
    kernel: an int per part, and for 16-bit gradients a float32 [vocabulary, width].

    The sorted indices come before the output (the zeroed weight gradient), the rest after it.

    Evidence: published peaks on an A100 (float32, 16,384 indices, widths 768 and 4,096), 13 of 14
    differences between neighbouring vocabularies to the byte, which fixes the sum of all parts;
    the remaining one is 206 KiB off, probably an unsplit block. Fused kernel and cub storage:
    derived, not measured.
    """
    if indices <= 3072 and not scale_by_frequency:
        return ()
    index_array_bytes = indices * index_bytes
    bits = 8 * index_bytes
    if torch_version >= (2, 13):
        bits = cub.number_of_bits(vocabulary if padding_index >= 0 else vocabulary - 1 - padding_index)
    sort_bytes = cub.radix_sort_bytes(indices, index_bytes, index_bytes, bits, gpu)
    before = [
        Scratch("sorted indices", index_array_bytes, "op", 0, True),
        Scratch("original indices", index_array_bytes, "op", 0, True),
        Scratch("range", index_array_bytes, "stage", 0, True),
        Scratch("radix sort storage", sort_bytes, "stage", 0, True),
    ]
    if scale_by_frequency:
        by_key_bytes = cub.scan_by_key_bytes(indices, index_bytes, index_bytes)
        before += [
            Scratch("count", index_array_bytes, "op", 1, True),
            Scratch("scan by key storage", by_key_bytes, "stage", 1, True),
            Scratch("scan by key storage", by_key_bytes, "stage", 2, True),
        ]

    max_segments = min(indices, vocabulary)
    max_parts = indices // 10 + max_segments
    unique_bytes = cub.unique_by_key_bytes(indices, index_bytes, gpu, torch_version)
    scan_bytes = cub.scan_bytes(max_segments, index_bytes, torch_version=torch_version)
    after = [
        Scratch("segment offsets", index_array_bytes, "op", 3),
        Scratch("number of segments", 8, "op", 3),
        Scratch("unique keys", index_array_bytes, "stage", 3),
        Scratch("unique by key storage", unique_bytes, "stage", 3),
        Scratch("parts per segment", max_segments * index_bytes, "op", 4),
        Scratch("parts per segment offset", max_segments * index_bytes, "op", 4),
        Scratch("scan storage", scan_bytes, "stage", 4),
        Scratch("number of parts", 8, "op", 5),
        Scratch("part offsets", max_parts * index_bytes, "op", 5),
    ]
    warped_width = round_up(width, 32)
    scatter_grid = divide_up(max_segments * warped_width, min(warped_width, 1024))
    fused = (
        torch_version >= (2, 11)
        and not deterministic
        and scatter_grid < 4 * gpu.sms
        and max_parts > 4 * scatter_grid
    )
    opmath_bytes = max(element_bytes, 4)
    if fused:
        after.append(Scratch("part to segment", max_parts * index_bytes, "op", 5))
        if element_bytes < opmath_bytes:
            after.append(Scratch("gradient accumulator", vocabulary * width * opmath_bytes, "op", 5))
    else:
        after.append(Scratch("gradient per part", max_parts * width * opmath_bytes, "op", 5))
    return scratches(*before, *after)


def index_put_accumulate(
    indices: int,
    largest_index: int,
    gpu: GPU,
    *,
    index_tensors: int = 1,
    index_bytes: int = 8,
    value_copy_bytes: int = 0,
    checks_range: bool = False,
    torch_version: tuple[int, int] = (2, 14),
) -> tuple[Scratch, ...]:
    """Scratch of `index_put_(accumulate=True)`, thus of the backward of `x[index]`.

    Source: Indexing.cu, index_put_with_sort_kernel (also the deterministic index_add, scatter and
    index_put). indices: elements of the broadcast index; largest_index: rows of the indexed
    dimensions - 1 (product of their sizes - 1). index_tensors: how many dimensions are indexed.
    value_copy_bytes: bytes of the values when they are expanded or not contiguous, else 0.
    checks_range: false in backward (`unsafe`); true adds the range check's minima and maxima.
    index_bytes: 4 for int32 indices, which are first cast to int64.

    Evidence: 18 recorded calls of one int64 index tensor (6 allocations each, 7 in the 5 calls that
    copy their values), to the byte and in this order. Several index tensors, int32 casts and the
    range check: derived, not measured.
    """
    index_array_bytes = indices * 8
    found: list[Scratch] = []
    if index_bytes != 8:
        found += [Scratch("int64 indices", index_array_bytes)] * index_tensors
    for tensor in range(index_tensors):
        stage = 3 * tensor
        if checks_range:
            found += _range_check(stage, torch_version)
        found.append(Scratch("wrapped indices", index_array_bytes, "stage", stage + 2))
        # The first product becomes the linear index, later ones are added to it and freed.
        found.append(Scratch("linear index", index_array_bytes, "stage" if tensor else "op", stage + 2))
    bits = cub.number_of_bits(largest_index)
    last = 3 * index_tensors
    found += [
        Scratch("contiguous values", value_copy_bytes, "op", last),
        Scratch("sorted indices", index_array_bytes, "op", last),
        Scratch("original indices", index_array_bytes, "op", last),
        Scratch("range", index_array_bytes, "op", last),
        Scratch("radix sort storage", cub.radix_sort_bytes(indices, 8, 8, bits, gpu), "stage", last),
    ]
    return scratches(*found)


def _range_check(stage: int, torch_version: tuple[int, int]) -> list[Scratch]:
    """The smallest and the largest index, and whether each is in range (Indexing.cu, `wrapIndexOnce`).

    Until 2.12 one after the other.
    """
    if torch_version >= (2, 13):
        return [
            Scratch("range minimum", 8, "stage", stage, until=stage + 1),
            Scratch("range maximum", 8, "stage", stage, until=stage + 1),
            Scratch("minimum is in range", 1, "stage", stage),
            Scratch("maximum is in range", 1, "stage", stage + 1),
        ]
    return [
        Scratch("range minimum", 8, "stage", stage),
        Scratch("minimum is in range", 1, "stage", stage),
        Scratch("range maximum", 8, "stage", stage + 1),
        Scratch("maximum is in range", 1, "stage", stage + 1),
    ]


def nonzero(elements: int, gpu: GPU, torch_version: tuple[int, int] = (2, 14)) -> tuple[Scratch, ...]:
    """Scratch of `nonzero` (also masked indexing, `torch.where(mask)`), below 2^31 elements.

    Source: Nonzero.cu. The count and the first storage come before the output, whose size they
    decide; the storage of the selection after it. Evidence: 15 recorded calls (45 allocations) on an
    A100-class card, all to the byte.
    """
    if elements == 0:
        return (Scratch("count", 4, "op", 0, True), Scratch("reduce storage", 1, "stage", 0, True))
    return scratches(
        Scratch("count", 4, "op", 0, True),
        Scratch("reduce storage", cub.reduce_bytes(elements, 4, gpu), "stage", 0, True),
        Scratch("selection storage", cub.select_flagged_bytes(elements, gpu, torch_version), "stage", 1),
    )


def cumsum(
    shape: tuple[int, ...],
    dim: int,
    element_bytes: int,
    *,
    is_floating: bool = False,
    converted_bytes: int = 0,
    dense_copy_bytes: int = 0,
    torch_version: tuple[int, int] = (2, 14),
) -> tuple[Scratch, ...]:
    """Scratch of cumsum (cumprod, logcumsumexp) along `dim`.

    converted_bytes: of the input in the output's type where it has another one (a bool mask in int64), else
    0: ReduceOps.cpp, `impl_func_cum_ops` converts it after the output is there.
    dense_copy_bytes: of the input where it is not contiguous, converted or not, else 0.

    Source: ScanUtils.cuh, scan_dim: only a tensor with all its elements along `dim` goes through
    cub. Evidence: 3 recorded allocations of 1,023 bytes (int64), to the byte.
    """
    elements = prod(shape)
    storage_bytes = 0
    if elements and elements == shape[dim]:
        storage_bytes = cub.scan_bytes(min(elements, 2**30), element_bytes, is_floating, torch_version)
    return scratches(
        Scratch("converted input", converted_bytes),
        Scratch("contiguous input", dense_copy_bytes),
        Scratch("scan storage", storage_bytes),
    )


def masked_scatter(
    elements: int, *, copies_mask: bool, source_copy_bytes: int = 0, torch_version: tuple[int, int] = (2, 14)
) -> tuple[Scratch, ...]:
    """Scratch of masked_scatter_ into a tensor of so many elements.

    Source: cuda/IndexKernel.cpp, masked_scatter__cuda, and IndexKernel.cu, launch_masked_scatter_kernel:
    an int64 prefix sum of the mask, which is made contiguous first (a broadcast one is copied), as is the
    source. Derived, not measured.
    """
    if elements == 0:
        return ()
    return scratches(
        Scratch("mask prefix sum", elements * 8),
        Scratch("contiguous mask", elements if copies_mask else 0),
        Scratch(
            "scan storage", cub.scan_bytes(min(elements, 2**30), 8, torch_version=torch_version), "stage"
        ),
        Scratch("contiguous source", source_copy_bytes, "op", 1),
    )


def topk(
    slices: int,
    slice_items: int,
    k: int,
    element_bytes: int,
    gpu: GPU,
    *,
    is_sorted: bool = True,
    torch_version: tuple[int, int] = (2, 14),
) -> tuple[Scratch, ...]:
    """Scratch of topk over `slices` rows of `slice_items` contiguous elements.

    Source: TensorTopK.cu (mbtopk::launch, should_use_multiblock), TensorTopK.cpp. Few long rows
    take several blocks per row; otherwise nothing but, for k > 4096, the sort of the results.

    Until 2.10 there are semaphores and no digit sums, until 2.6 one copy of ranks and digits.

    Evidence: one recorded call of an older torch (float32, one row, 32 blocks), all 9 allocations to the
    byte; what torch 2.6, 2.11 and 2.14 ask for, six shapes on six cards (docs/virtual_gpu.md).
    """
    found: list[Scratch] = []
    if _topk_uses_several_blocks(slices, slice_items):
        # 65,536 registers of a multiprocessor hold 6 blocks of 256 threads with 40 registers.
        items_per_thread = divide_up(slice_items * slices, gpu.sms * 6 * 256)
        items_per_thread = max(4, min(items_per_thread, 64))
        blocks = slices * divide_up(slice_items, items_per_thread * 256)
        by_key_bytes = cub.scan_by_key_bytes(blocks, 4, 4)
        radix_bytes = max(element_bytes, 4)  # TopKTypeConfig: at least 32 bits
        found.append(Scratch("k-th values", slices * element_bytes, "stage", 0, until=2))
        if torch_version >= (2, 11):
            found += [
                Scratch("ranks to find", 2 * slices * 4, "stage", 0, until=2),
                Scratch("desired digits", 2 * slices * radix_bytes, "stage", 0, until=2),
                Scratch("digit counts", blocks * 256 * 2, "stage", 0, until=2),
                Scratch("digit sums", slices * 256 * 4, "stage", 0, until=2),
            ]
        else:
            copies = 2 if torch_version >= (2, 7) else 1
            found += [
                Scratch("semaphores", slices * 4, "stage", 0, until=2),
                Scratch("ranks to find", copies * slices * 4, "stage", 0, until=2),
                Scratch("desired digits", copies * slices * radix_bytes, "stage", 0, until=2),
                Scratch("digit counts", blocks * 256 * 2, "stage", 0, until=2),
            ]
        found += [
            Scratch("counts within k", blocks * 4, "stage", 0, until=2),
            Scratch("counts of the k-th", blocks * 4, "stage", 0, until=2),
            Scratch("scan by key storage", by_key_bytes, "stage", 1),
            Scratch("scan by key storage", by_key_bytes, "stage", 2),
        ]
    if is_sorted and k > SMALL_SORT_ITEMS:
        found += [
            Scratch("sorted positions", slices * k * 8, "op", 3),
            Scratch("sorted values", slices * k * element_bytes, "op", 3),
        ]
    return scratches(*found)


def _topk_uses_several_blocks(slices: int, slice_items: int) -> bool:
    limits = ((20, 20000), (40, 10000), (80, 8000), (199, 5000), (799, 3000), (4000, 800))
    for max_slices, min_items in limits:
        if slices <= max_slices:
            return slice_items >= min_items
    return slice_items >= 400


def sort(slices: int, slice_items: int, element_bytes: int, gpu: GPU) -> tuple[Scratch, ...]:
    """Scratch of sort and argsort over `slices` contiguous rows of `slice_items` elements.

    Source: Sort.cpp (sort_cuda_kernel), SortStable.cu (launch_stable_sort_kernel). Rows of up to
    4,096 elements are sorted in place, with one row of indices to copy from. Derived, not measured.
    Not covered: the storage of DeviceSegmentedRadixSort beyond its ping-pong buffers, and, below
    capability 9.0, of sorts with keys under 4 bytes (left out).
    """
    elements = slices * slice_items
    if elements == 0:
        return ()
    if slice_items <= SMALL_SORT_ITEMS:
        return (Scratch("row of indices", slice_items * 8),)
    bits = element_bytes * 8
    if slices == 1 or slice_items >= 1_000_000:
        storage_bytes = _sort_storage_bytes(slice_items, element_bytes, 8, bits, gpu)
        return scratches(
            Scratch("indices", slice_items * 8),
            *(Scratch("radix sort storage", storage_bytes, "stage", stage) for stage in range(slices)),
        )
    if slices < 128:
        return scratches(
            Scratch("index and segment", elements * 8),
            Scratch("sorted index and segment", elements * 8),
            Scratch("sorted keys", elements * element_bytes, "stage"),
            Scratch(
                "radix sort storage", _sort_storage_bytes(elements, element_bytes, 8, bits, gpu), "stage"
            ),
            Scratch(
                "radix sort storage",
                _sort_storage_bytes(elements, 8, 0, cub.number_of_bits(slices - 1), gpu),
                "stage",
                1,
            ),
        )
    return (
        Scratch("indices", elements * 8),
        Scratch("segmented sort storage", cub.aliased_bytes(elements * element_bytes, elements * 8)),
    )


def _sort_storage_bytes(items: int, key_bytes: int, value_bytes: int, bits: int, gpu: GPU) -> int:
    if key_bytes < 4 and gpu.capability < (9, 0):
        return 0
    return cub.radix_sort_bytes(items, key_bytes, value_bytes, bits, gpu)
