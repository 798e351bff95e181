"""Scratch of reductions, against numbers worked out by hand from Reduce.cuh."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.gpu.cards import GPUS
from profiler.gpu.kernels.reduction import (
    accumulator,
    contiguous_strides,
    reduction,
    reduction_iterator,
    reduction_launch,
    split_for_32bit,
)
from profiler.gpu.kernels.scratch import Scratch

pytestmark = pytest.mark.quick

H100 = GPUS["H100-80GB"]
A100 = GPUS["A100-80GB"]


def sizes(found: tuple[Scratch, ...]) -> list[tuple[str, int]]:
    return [(scratch.name, scratch.size_bytes) for scratch in found]


def test_column_sum_step_by_step() -> None:
    """[8192, 768] float32, dim 0, H100 (132 multiprocessors of 2,048 threads).

    768 divides by 4: 4 outputs per thread, 512 / 4 = 128 threads a block. 192 vectors wide: 32
    across, 128 / 32 = 4 high. Each thread adds 8192 / 4 = 2048 values >= 256; 192 / 32 = 6 blocks.
    2048 / 128 = 16 blocks per multiprocessor, target 2112. Blocks per output: min(2112 / 6 = 352,
    2048 / 16 = 128) = 128. Buffer 4 B * 768 * 128 * (32 * 4); semaphores 4 B * 6.
    """
    launch = reduction_launch(reduction_iterator((8192, 768), (0,), 4, 4), accumulator("sum", 4, 4), H100)
    assert launch.block == (32, 4)
    assert launch.output_vec_size == 4
    assert launch.grid == 6
    assert launch.ctas_per_output == 128
    found = reduction((8192, 768), (0,), 4, H100)
    assert sizes(found) == [("partial results", 50331648), ("semaphores", 24)]
    assert {scratch.lifetime for scratch in found} == {"stage"}


def test_full_reduction_step_by_step() -> None:
    """1e8 float32 elements to one: 512 threads, 1e8 / 512 = 195,313 values each; 2048 / 512 = 4
    blocks per multiprocessor, target 528. min(528, 195313 / 16 = 12,208) = 528, but at most 256
    values per thread: 195313 / 256 = 763 blocks. 763 * 4 B; one semaphore.
    """
    assert sizes(reduction((10**8,), None, 4, H100)) == [("partial results", 3052), ("semaphores", 4)]


def test_number_of_multiprocessors_limits_the_blocks() -> None:
    """[16384, 4096]: 32 blocks wide, 4096 values per thread. H100: 2112 / 32 = 66 blocks per output;
    A100: 108 * 16 / 32 = 54.
    """
    assert reduction((16384, 4096), (0,), 4, H100)[0].size_bytes == 4 * 4096 * 66 * 128
    assert reduction((16384, 4096), (0,), 4, A100)[0].size_bytes == 4 * 4096 * 54 * 128


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((512, 768), (0,)),  # 128 values per thread, below 256
        ((4096, 50257), (0,)),  # odd width: one output per thread, 1571 blocks > 132 * 4
        ((8192, 768), (1,)),  # 192 vectors over 32 x 16 threads
        ((32, 512, 512), (-1,)),
        ((0, 768), (0,)),
        ((4096, 1), (1,)),
    ],
)
def test_no_scratch(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    assert reduction(shape, dims, 4, H100) == ()


@pytest.mark.parametrize("dims", [None, (), (0,), (-1,)])
def test_a_scalar_needs_no_scratch(dims: tuple[int, ...] | None) -> None:
    assert reduction((), dims, 4, H100) == ()


def test_alignment_of_the_input_decides_the_vector() -> None:
    """An offset of 2 floats allows 2 outputs per thread, so 256 threads: 32 x 8, 8 per
    multiprocessor, 12 blocks wide for 768. 8192 / 8 = 1024 values; min(1056 / 12 = 88, 64) = 64.
    """
    found = reduction((8192, 768), (0,), 4, H100, storage_offset=2)
    assert sizes(found) == [("partial results", 4 * 768 * 64 * 32 * 2), ("semaphores", 48)]


def test_accumulators() -> None:
    """Element, output and accumulator sizes: var keeps mean, m2, n and nf (16 B); max a value and an
    index (16 B); amax the value itself (2 B in bfloat16).
    """
    shape, dims = (8192, 768), (0,)
    base = reduction(shape, dims, 2, H100)[0].size_bytes
    assert base == 4 * 768 * 128 * 128
    assert reduction(shape, dims, 2, H100, kind="mean")[0].size_bytes == base
    assert reduction(shape, dims, 2, H100, kind="prod")[0].size_bytes == base
    assert reduction(shape, dims, 2, H100, kind="var")[0].size_bytes == 4 * base
    assert reduction(shape, dims, 2, H100, kind="max")[0].size_bytes == 4 * base
    assert reduction(shape, dims, 2, H100, kind="amax")[0].size_bytes == base // 2
    assert reduction(shape, dims, 2, H100, kind="any")[0].size_bytes == base // 4
    with pytest.raises(ValueError, match="unknown reduction kind 'median'"):
        reduction(shape, dims, 2, H100, kind="median")


def test_16_bit_loads_changed_in_2_10() -> None:
    """2,048 bfloat16 elements to one: in vectors of 8 they occupy 256 threads, in vectors of 4 512."""
    for version, threads in (((2, 9), 512), ((2, 10), 256)):
        launch = reduction_launch(
            reduction_iterator((2048,), None, 2, 2), accumulator("sum", 2, 2, version), H100
        )
        assert launch.block == (threads, 1)


def test_input_beyond_31_bit_offsets_runs_in_pieces() -> None:
    """[8192, 128256] float32 takes 4.2e9 bytes: halved once along rows, 2.1e9 < 2^31 - 1. A sum goes
    on in its output; (value, index) pairs of max need 8192 * 16 bytes beside it.
    """
    pieces = split_for_32bit(reduction_iterator((8192, 128256), (1,), 4, 4))
    assert [piece.outputs for piece in pieces] == [4096, 4096]
    assert [piece.input_offset_bytes for piece in pieces] == [0, 4096 * 128256 * 4]
    assert reduction((8192, 128256), (1,), 4, H100) == ()
    assert sizes(reduction((8192, 128256), (1,), 4, H100, kind="max")) == [("accumulation buffer", 131072)]


def test_pieces_take_their_scratch_in_turn() -> None:
    """Column sum of [1048576, 768] float32 (3.2e9 bytes): two pieces of 524,288 rows, one after the
    other. Values per thread 131,072: min(352, 8192) = 352, at most 256 values: 512 blocks.
    """
    found = reduction((1048576, 768), (0,), 4, H100)
    assert [(scratch.size_bytes, scratch.stage) for scratch in found] == [
        (4 * 768 * 512 * 128, 0),
        (24, 0),
        (4 * 768 * 512 * 128, 1),
        (24, 1),
    ]


def test_cast_input() -> None:
    """A sum of a bool mask first copies it to int64; its rows of 100 need nothing else."""
    assert reduction((64, 100), (1,), 8, H100, cast_input=True) == (Scratch("cast input", 51200),)


def test_strided_last_dimension() -> None:
    """Last dimension of a transposed [2048, 2560]: as the column sum of [2560, 2048]."""
    transposed = reduction((2048, 2560), (1,), 4, H100, strides=(1, 2048))
    assert transposed == reduction((2560, 2048), (0,), 4, H100)
    assert transposed != ()


@given(
    rows=st.sampled_from([1, 3, 64, 512, 1000, 4096]),
    batch=st.integers(1, 8),
    width=st.sampled_from([1, 7, 64, 768, 1000, 4096]),
    over_rows=st.booleans(),
    element_bytes=st.sampled_from([2, 4]),
)
def test_adjacent_dimensions_count_as_one(
    rows: int, batch: int, width: int, over_rows: bool, element_bytes: int
) -> None:
    """TensorIterator joins dimensions that lie in memory as one."""
    joined = reduction((batch * rows, width), (0,) if over_rows else (1,), element_bytes, H100)
    separate = reduction((batch, rows, 1, width), (0, 1) if over_rows else (3,), element_bytes, H100)
    assert joined == separate


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_iterator_keeps_every_element(shape: list[int]) -> None:
    for dims in ([0], [len(shape) - 1], list(range(len(shape)))):
        iterator = reduction_iterator(shape, dims, 4, 4)
        kept = 1
        for dim, size in enumerate(shape):
            kept *= 1 if dim in dims else size
        assert iterator.outputs * iterator.inputs_per_output == _product(shape)
        assert iterator.outputs == kept


def _product(values: list[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def test_contiguous_strides() -> None:
    assert contiguous_strides((2, 3, 4)) == (12, 4, 1)
