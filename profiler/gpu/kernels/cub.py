"""Temporary storage of CUB device algorithms, as ATen calls them (ATen/cuda/cub.cuh).

Source: NVIDIA/cccl, cub/device/dispatch (dispatch_radix_sort.cuh, dispatch_scan.cuh,
dispatch_select_if.cuh, dispatch_unique_by_key.cuh, dispatch_reduce.cuh) and its tuning folder.
An algorithm asks for one allocation that holds several buffers, each aligned to 256 bytes, plus
255 bytes to align the first; one that needs no buffer asks for 1 byte.

Which tile sizes are tuned for a card is part of CUB; those here were read off what torch's own build asks for
on virtual cards (docs/virtual_gpu.md), of which the recorded sizes are a part.
"""

from profiler.gpu.cards import GPU
from profiler.units import divide_up, round_up

ALIGNMENT_BYTES = 256
NO_STORAGE_BYTES = 1
TILE_STATE_PADDING = 32
RADIX_DIGITS = 256  # 8 bits per pass


def aliased_bytes(*buffers_bytes: int) -> int:
    """`AliasTemporaries`: one allocation that holds these buffers."""
    return ALIGNMENT_BYTES - 1 + sum(round_up(size, ALIGNMENT_BYTES) for size in buffers_bytes)


def number_of_bits(largest_value: int) -> int:
    """`at::cuda::cub::get_num_bits`: key bits that a sort of values up to this one looks at."""
    return max(largest_value.bit_length(), 1)


def _items(nominal_items: int, element_bytes: int) -> int:
    """Items per thread: CUB states them for 4-byte elements."""
    return max(1, nominal_items * 4 // max(4, element_bytes))


def radix_sort_bytes(items: int, key_bytes: int, value_bytes: int, bits: int, gpu: GPU) -> int:
    """DeviceRadixSort::SortPairs (SortKeys with value_bytes 0) of `items` int64-counted items.

    key_bytes must be 4 or 8 below capability 9.0, where smaller keys take another algorithm whose
    storage depends on occupancy. bits: key bits sorted on. Up to 256 * 19 4-byte items (2,304
    8-byte ones) one block sorts all and needs nothing.

    Evidence: 8-byte keys and values: 17 recorded allocations of 1 byte at 512, 1,024 and 2,048
    items, one of 72,191 bytes at 4,096 items (torch 2.6 and 2.11), to the byte.

    Raises ValueError for smaller keys below capability 9.0.
    """
    if items == 0:
        return 0
    dominant_bytes = max(key_bytes, value_bytes)
    if items <= 256 * _items(19, dominant_bytes):
        return NO_STORAGE_BYTES
    if key_bytes < 4 and gpu.capability < (9, 0):
        raise ValueError(
            f"the radix sort of {key_bytes}-byte keys below compute capability 9.0 has no fixed storage size"
        )
    passes = divide_up(bits, 8)
    tile_items = _onesweep_tile_items(key_bytes, value_bytes, gpu)
    portion_items = (2**28 - 1) // tile_items * tile_items
    portions = divide_up(items, portion_items)
    blocks = divide_up(min(items, portion_items), tile_items)
    ping_pong = passes > 1
    return aliased_bytes(
        portions * passes * RADIX_DIGITS * 8,
        blocks * RADIX_DIGITS * 4,
        items * key_bytes if ping_pong else 0,
        items * value_bytes if ping_pong else 0,
        portions * passes * 4,
    )


def _onesweep_tile_items(key_bytes: int, value_bytes: int, gpu: GPU) -> int:
    """tuning_radix_sort.cuh, OnesweepPolicy, with 64-bit offsets."""
    dominant_bytes = max(key_bytes, value_bytes)
    if gpu.capability >= (9, 0):
        if key_bytes == 8:
            nominal = 30 if value_bytes < 8 else 24
        elif key_bytes == 4:
            nominal = 19 if value_bytes == 0 else (17 if value_bytes < 8 else 29)
        else:
            nominal = 23
        return 384 * _items(nominal, dominant_bytes)
    if gpu.capability >= (8, 0):
        return 384 * _items(17 if key_bytes == 4 and value_bytes else 21, dominant_bytes)
    return 256 * _items(46 if key_bytes == 4 and value_bytes == 4 else 23, dominant_bytes)


def _tile_states_bytes(tiles: int, value_bytes: int) -> int:
    """`ScanTileState::AllocationSize`: status and value of each tile in one 8- or 16-byte word."""
    return (tiles + TILE_STATE_PADDING) * (16 if value_bytes > 4 else 8)


def _of_cuda_13(torch_version: tuple[int, int]) -> bool:
    """CUB 3, with the builds for CUDA 13 that PyPI has had since torch 2.11."""
    return torch_version >= (2, 11)


def _scan_storage_bytes(states_bytes: int, torch_version: tuple[int, int]) -> int:
    """Tile states; in CUB 3 the dispatches of scans and selections ask for one buffer of 256 bytes more."""
    return aliased_bytes(states_bytes) + (ALIGNMENT_BYTES if _of_cuda_13(torch_version) else 0)


def scan_bytes(
    items: int, element_bytes: int, is_floating: bool = False, torch_version: tuple[int, int] = (2, 14)
) -> int:
    """DeviceScan::InclusiveScan, ExclusiveSum, at most 2^30 items at once.

    16-bit floats are no primitive types to CUB: the states of their tiles are three arrays, a status of 4
    bytes and two values.

    Evidence: 3 recorded allocations of 1,023 bytes (cumsum of int64), any length up to 16 tiles; 4, 8 and 2
    bytes, 15 lengths up to 16 million, as torch 2.6 and 2.14 ask for them, on six cards from T4 to B200.
    """
    if items == 0:
        return NO_STORAGE_BYTES
    tiles = divide_up(items, 128 * min(15 * 4 // element_bytes, 30))
    if is_floating and element_bytes == 2:
        states = tiles + TILE_STATE_PADDING
        found = aliased_bytes(4 * states, 2 * states, 2 * states)
        return found + (ALIGNMENT_BYTES if _of_cuda_13(torch_version) else 0)
    return _scan_storage_bytes(_tile_states_bytes(tiles, element_bytes), torch_version)


def scan_by_key_bytes(items: int, element_bytes: int, key_bytes: int) -> int:
    """DeviceScan::InclusiveSumByKey: tile states of (value, flag) pairs, and each tile's first key.

    Evidence: 2 recorded allocations of 1,279 bytes (topk over several blocks).
    """
    tile_items = 128 * _items(9, max(element_bytes, key_bytes))
    tiles = divide_up(items, tile_items)
    return aliased_bytes(_tile_states_bytes(tiles, 8), tiles * key_bytes)


def unique_by_key_bytes(
    items: int, key_bytes: int, gpu: GPU, torch_version: tuple[int, int] = (2, 14)
) -> int:
    """DeviceSelect::UniqueByKey of 8-byte keys, counted in 64 bits since CUB 3, in 32 before.

    Source: tuning_unique_by_key.cuh: tuned for 8.0, for 9.0 and from 10.0 on (there the tiles of 9.0).
    Evidence: 14 lengths up to 16 million on six cards with torch 2.14, on A100 and H100 with 2.6.
    """
    new = _of_cuda_13(torch_version)
    tile_items = 64 * _items(11, key_bytes)
    if key_bytes == 8 and gpu.capability == (8, 0):
        tile_items = 1344 if new else 1792
    elif key_bytes == 8 and gpu.capability >= (9, 0):
        tile_items = 4928 if new else 4480
    states_bytes = _tile_states_bytes(divide_up(items, tile_items), 8 if new else 4)
    return _scan_storage_bytes(states_bytes, torch_version)


def select_flagged_bytes(items: int, gpu: GPU, torch_version: tuple[int, int] = (2, 14)) -> int:
    """DeviceSelect::Flagged of int64 indices by bool flags, int32-counted.

    Source: tuning_select_if.cuh: tuned for 8.0, for 9.0 and from 10.0 on.
    Evidence: 15 recorded allocations of 767 bytes, up to 32 tiles; 15 lengths up to 16 million on six cards
    with torch 2.14, on A100 and H100 with 2.6.
    """
    tile_items = 128 * _items(10, 8)
    if gpu.capability == (8, 0):
        tile_items = 2304
    elif gpu.capability >= (9, 0):
        tile_items = 4224 if gpu.capability < (10, 0) else 3520
    return _scan_storage_bytes(_tile_states_bytes(divide_up(items, tile_items), 4), torch_version)


def reduce_bytes(items: int, accumulator_bytes: int, gpu: GPU) -> int:
    """DeviceReduce::Sum: one partial result per block that fits the device, times 5.

    Evidence: 9 recorded allocations of 1 byte and 6 of 17,663 bytes on an A100-class card. 256
    threads and 16 items per thread for 4-byte accumulators; as many blocks as threads allow.
    """
    if items <= 256 * _items(16, accumulator_bytes):
        return NO_STORAGE_BYTES
    blocks = gpu.sms * (gpu.max_threads_per_sm // 256) * 5
    return aliased_bytes(blocks * accumulator_bytes)
