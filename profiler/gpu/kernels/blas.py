"""Workspaces of matrix products: cuBLAS and cuBLASLt.

Source: aten/src/ATen/cuda/CublasHandlePool.cpp and CUDABlas.cpp.
"""

import re

from profiler.gpu.cards import GPU
from profiler.gpu.kernels.scratch import Scratch, scratches
from profiler.units import MIB

DEFAULT_WORKSPACE_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024  # ":4096:2:16:8", 8.125 MiB
LARGE_WORKSPACE_BYTES = 32 * MIB


def cublas_workspace_bytes(
    gpu: GPU, torch_version: tuple[int, int] = (2, 13), workspace_config: str | None = None
) -> int:
    """Bytes of the cuBLAS workspace of one (handle, stream): `getChosenWorkspaceSize()`.

    Hopper (capability 9.0) 32 MiB; Blackwell (10, 12) 32 MiB since 2.12 (pull request 175344);
    any other 8.125 MiB. workspace_config: the value of CUBLAS_WORKSPACE_CONFIG, ":KiB:COUNT" pairs
    that are summed (":0:0" is none); a value without such a pair leaves the default.

    Evidence: 8,519,680 bytes in traces of an A10, of an RTX PRO 6000 with torch 2.11 and of other
    Ampere cards; 33,554,432 bytes on Hopper. Blackwell from 2.12: derived, not measured.
    """
    major, minor = gpu.capability
    large = (major, minor) == (9, 0) or (major in (10, 12) and torch_version >= (2, 12))
    default_bytes = LARGE_WORKSPACE_BYTES if large else DEFAULT_WORKSPACE_BYTES
    pairs = re.findall(r":([0-9]+):([0-9]+)", workspace_config or "")
    if not pairs:
        return default_bytes
    return sum(int(size_kib) * 1024 * int(count) for size_kib, count in pairs)


def cublas_workspace(
    gpu: GPU, torch_version: tuple[int, int] = (2, 13), workspace_config: str | None = None
) -> tuple[Scratch, ...]:
    """The workspace that the first matrix product of a (thread, stream) leaves allocated for ever.

    cuBLAS handles belong to threads: forward (main thread) and backward (autograd's device thread)
    make one each, so a training process holds two, plus two per further stream. Allocated after the
    product's output, before the kernel; empty_cache does not free it. Since 2.11 at the latest,
    addmm through cuBLASLt uses the same block (TORCH_CUBLASLT_UNIFIED_WORKSPACE is on by default).

    Evidence: 21 recorded allocations in 15 traces; forward-only traces hold one, training traces two.
    """
    size_bytes = cublas_workspace_bytes(gpu, torch_version, workspace_config)
    return scratches(Scratch("cuBLAS workspace", size_bytes, "process"))
