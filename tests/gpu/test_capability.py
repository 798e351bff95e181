"""The limits of a multiprocessor, against the CUDA C++ Programming Guide and cuda_occupancy.h."""

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.capability import LIMITS, limits_of
from profiler.gpu.cards import GPUS


@pytest.mark.parametrize(
    ("capability", "threads", "blocks", "shared_kib", "block_kib"),
    [
        # "Technical Specifications per Compute Capability": resident threads and blocks, shared memory
        # of a multiprocessor and of a thread block.
        ((7, 0), 2048, 32, 96, 96),
        ((7, 5), 1024, 16, 64, 64),
        ((8, 0), 2048, 32, 164, 163),
        ((8, 6), 1536, 16, 100, 99),
        ((8, 7), 1536, 16, 164, 163),
        ((8, 9), 1536, 24, 100, 99),
        ((9, 0), 2048, 32, 228, 227),
        ((10, 0), 2048, 32, 228, 227),
        ((10, 3), 2048, 32, 228, 227),
        ((12, 0), 1536, 24, 100, 99),
    ],
)
def test_limits(capability, threads, blocks, shared_kib, block_kib) -> None:
    limits = limits_of(capability)
    assert limits.max_threads_per_sm == threads
    assert limits.max_blocks_per_sm == blocks
    assert limits.shared_per_sm_bytes == shared_kib * 1024
    assert limits.shared_per_block_optin_bytes == block_kib * 1024


def test_what_is_reserved_of_a_block_is_what_is_missing_to_the_multiprocessor() -> None:
    # Tuning guides since Ampere: CUDA reserves 1 KB of shared memory per thread block.
    for limits in LIMITS.values():
        missing = limits.shared_per_sm_bytes - limits.shared_per_block_optin_bytes
        assert limits.reserved_shared_per_block_bytes == missing


def test_shared_memory_is_handed_out_as_cuda_occupancy_h_says() -> None:
    # cudaOccSMemAllocationGranularity: 256 up to capability 7, 128 from 8 on.
    assert {limits.shared_unit_bytes for (major, _), limits in LIMITS.items() if major == 7} == {256}
    assert {limits.shared_unit_bytes for (major, _), limits in LIMITS.items() if major >= 8} == {128}


def test_every_card_has_limits() -> None:
    assert all(gpu.max_threads_per_sm in (1024, 1536, 2048) for gpu in GPUS.values())


def test_an_unknown_capability_is_one_line() -> None:
    with pytest.raises(
        ProfilerError, match=r"compute capability 13\.0 is not known; it is one of 7\.0, 7\.5"
    ):
        limits_of((13, 0))
