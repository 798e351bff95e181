"""Temporary storage of CUB device algorithms, as ATen calls them (ATen/cuda/cub.cuh).

Source: NVIDIA/cccl, cub/device/dispatch (dispatch_radix_sort.cuh, dispatch_scan.cuh,
dispatch_select_if.cuh, dispatch_unique_by_key.cuh, dispatch_reduce.cuh) and its tuning folder.
An algorithm asks for one allocation that holds several buffers, each aligned to 256 bytes, plus
255 bytes to align the first; one that needs no buffer asks for 1 byte.

Tile sizes are those of compute capability 8.x; newer cards use tuned, mostly larger tiles, so that
the scan-based sizes of capability 9 and later are upper bounds (a tile costs 8 or 16 bytes).
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


def scan_bytes(items: int, element_bytes: int) -> int:
    """DeviceScan::InclusiveScan, ExclusiveSum, at most 2^30 items at once.

    Evidence: 3 recorded allocations of 1,023 bytes (cumsum of int64), any length up to 16 tiles.
    """
    if items == 0:
        return NO_STORAGE_BYTES
    tile_items = 128 * min(15 * 4 // element_bytes, 30)
    return aliased_bytes(_tile_states_bytes(divide_up(items, tile_items), element_bytes))


def scan_by_key_bytes(items: int, element_bytes: int, key_bytes: int) -> int:
    """DeviceScan::InclusiveSumByKey: tile states of (value, flag) pairs, and each tile's first key.

    Evidence: 2 recorded allocations of 1,279 bytes (topk over several blocks).
    """
    tile_items = 128 * _items(9, max(element_bytes, key_bytes))
    tiles = divide_up(items, tile_items)
    return aliased_bytes(_tile_states_bytes(tiles, 8), tiles * key_bytes)


def unique_by_key_bytes(items: int, key_bytes: int) -> int:
    """DeviceSelect::UniqueByKey over int64-counted items. Derived, not measured."""
    tiles = divide_up(items, 64 * _items(11, key_bytes))
    return aliased_bytes(_tile_states_bytes(tiles, 8))


def select_flagged_bytes(items: int) -> int:
    """DeviceSelect::Flagged of int64 indices by bool flags, int32-counted.

    Evidence: 15 recorded allocations of 767 bytes, up to 32 tiles.
    """
    tiles = divide_up(items, 128 * _items(10, 8))
    return aliased_bytes(_tile_states_bytes(tiles, 4))


def reduce_bytes(items: int, accumulator_bytes: int, gpu: GPU) -> int:
    """DeviceReduce::Sum: one partial result per block that fits the device, times 5.

    Evidence: 9 recorded allocations of 1 byte and 6 of 17,663 bytes on an A100-class card. 256
    threads and 16 items per thread for 4-byte accumulators; as many blocks as threads allow.
    """
    if items <= 256 * _items(16, accumulator_bytes):
        return NO_STORAGE_BYTES
    blocks = gpu.sms * (gpu.max_threads_per_sm // 256) * 5
    return aliased_bytes(blocks * accumulator_bytes)
