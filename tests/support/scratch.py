"""What kernels took on the side, as only the tests of recorded traces need it."""

from profiler.gpu.kernels import Scratch
from profiler.units import MIB, round_up


def peak_bytes(allocated: tuple[Scratch, ...], rounding_bytes: int = 512) -> int:
    """Most bytes of scratch alive at once, each allocation rounded up to `rounding_bytes`."""
    peak = kept = staged = 0
    stage = 0
    for scratch in allocated:
        if scratch.stage != stage:
            stage, staged = scratch.stage, 0
        rounded_bytes = round_up(scratch.size_bytes, rounding_bytes)
        if scratch.lifetime == "stage":
            staged += rounded_bytes
        else:
            kept += rounded_bytes
        peak = max(peak, kept + staged)
    return peak


def cublaslt_workspace(torch_version: tuple[int, int] = (2, 13)) -> tuple[Scratch, ...]:
    """What an addmm with fused bias (gemm_and_bias, cuBLASLt) allocates by itself.

    Older torch took 1 MiB for each call and freed it after the launch: 477 recorded allocations in
    3 traces, one of them on Hopper, torch up to 2.6. From 2.11 nothing: the cuBLAS workspace is used
    (derived, not measured). 2.7 to 2.10, where unified workspaces came, are taken as the older ones.
    """
    if torch_version >= (2, 11):
        return ()
    return (Scratch("cuBLASLt workspace", MIB),)
