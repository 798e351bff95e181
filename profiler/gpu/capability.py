"""What follows from the compute capability of a GPU: the limits of one streaming multiprocessor.

A capability that is not here is added as one line of LIMITS.
"""

from dataclasses import dataclass

from profiler.errors import ProfilerError

KIB = 1 << 10

# The same on every capability since 7.0 (CUDA C++ Programming Guide, technical specifications).
WARP_THREADS = 32
REGISTERS_PER_SM = 65536
SHARED_PER_BLOCK_BYTES = 48 * KIB


@dataclass(frozen=True)
class Limits:
    """The limits of one streaming multiprocessor (SM), as cudaDeviceProp has them.

    max_threads_per_sm: `maxThreadsPerMultiProcessor`.
    max_blocks_per_sm: `maxBlocksPerMultiProcessor`.
    shared_per_sm_bytes: `sharedMemPerMultiprocessor`.
    shared_per_block_optin_bytes: `sharedMemPerBlockOptin`, the most that one block may ask for.
    reserved_shared_per_block_bytes: `reservedSharedMemPerBlock`, what the driver takes of each block.
    shared_unit_bytes: shared memory is handed to a block in multiples of it (cuda_occupancy.h,
        cudaOccSMemAllocationGranularity).
    clusters: `clusterLaunch`.

    Registers are handed to a warp in multiples of 256, warps in fours (cuda_occupancy.h).
    Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; the kilobyte that
    is reserved of each block since 8.0, in the tuning guide of each architecture.
    """

    max_threads_per_sm: int
    max_blocks_per_sm: int
    shared_per_sm_bytes: int
    shared_per_block_optin_bytes: int
    reserved_shared_per_block_bytes: int
    shared_unit_bytes: int
    clusters: bool


LIMITS: dict[tuple[int, int], Limits] = {
    (7, 0): Limits(2048, 32, 96 * KIB, 96 * KIB, 0, 256, False),
    (7, 5): Limits(1024, 16, 64 * KIB, 64 * KIB, 0, 256, False),
    (8, 0): Limits(2048, 32, 164 * KIB, 163 * KIB, KIB, 128, False),
    (8, 6): Limits(1536, 16, 100 * KIB, 99 * KIB, KIB, 128, False),
    (8, 7): Limits(1536, 16, 164 * KIB, 163 * KIB, KIB, 128, False),
    (8, 9): Limits(1536, 24, 100 * KIB, 99 * KIB, KIB, 128, False),
    (9, 0): Limits(2048, 32, 228 * KIB, 227 * KIB, KIB, 128, True),
    (10, 0): Limits(2048, 32, 228 * KIB, 227 * KIB, KIB, 128, True),
    (10, 3): Limits(2048, 32, 228 * KIB, 227 * KIB, KIB, 128, True),
    (12, 0): Limits(1536, 24, 100 * KIB, 99 * KIB, KIB, 128, True),
    (12, 1): Limits(1536, 24, 100 * KIB, 99 * KIB, KIB, 128, True),
}


def limits_of(capability: tuple[int, int]) -> Limits:
    """The limits of a capability (major, minor); raises ProfilerError for one that is not known."""
    if capability not in LIMITS:
        known = ", ".join(f"{major}.{minor}" for major, minor in LIMITS)
        raise ProfilerError(
            f"compute capability {capability[0]}.{capability[1]} is not known; it is one of {known}"
        )
    return LIMITS[capability]
