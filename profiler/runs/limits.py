"""Running under limits: less memory than there is, one attention kernel, the allocator's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

# What else says so under a limit on the CPU: oneDNN, which asks for memory by itself, C++, and pthreads.
_WITHOUT_MEMORY = (
    "could not create a primitive",
    "could not execute a primitive",
    "bad_alloc",
    "Cannot allocate memory",
    "Resource temporarily unavailable",  # a thread that finds no room for its stack
    "can't start new thread",
    "cannot allocate memory for thread-local data",  # glibc, where a thread first uses a library's
)


@contextmanager
def limited(device_type: str, limit_bytes: int | None) -> Iterator[None]:
    """Inside, the device ("cpu" or "cuda") gives out at most about `limit_bytes` more; None: all it has."""
    if limit_bytes is None:
        yield
    elif device_type == "cuda":
        import torch

        _, total_bytes = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total_bytes))
        yield
    else:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        now_bytes = pages * os.sysconf("SC_PAGE_SIZE")
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now_bytes + limit_bytes, hard))
        try:
            yield
        finally:  # reading the recording takes memory too
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def is_out_of_memory(error: BaseException, under_limit: bool = False) -> bool:
    """Whether memory ran out. CUDA's allocator says it by its type, the CPU's in words.

    Source: c10/core/impl/alloc_cpu.cpp. `under_limit` takes what libraries say in a process that is limited.
    """
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return says_out_of_memory(str(error), under_limit)


def says_out_of_memory(text: str, under_limit: bool = False) -> bool:
    """Whether these are the words of something that found no memory."""
    words = ("can't allocate memory", *(_WITHOUT_MEMORY if under_limit else ()))
    return any(word in text for word in words)


def start_threads() -> None:
    """Let torch start its threads: their stacks are reserved, and not what a limit is about."""
    import torch

    torch.ones(1 << 16, requires_grad=True).exp().sum().backward()


def attention_by(kernel: str) -> AbstractContextManager[None]:
    """Let scaled dot product attention use this kernel only ("" for torch's own choice)."""
    if not kernel:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = "MATH" if kernel == "math" else f"{kernel.upper()}_ATTENTION"
    chosen: AbstractContextManager[None] = sdpa_kernel(getattr(SDPBackend, backend))
    return chosen


def allocator_environment(settings: str) -> dict[str, str]:
    """What a process must find in its environment: torch reads its allocator's settings from there, once.

    PYTORCH_CUDA_ALLOC_CONF is the old name of PYTORCH_ALLOC_CONF, which torch reads since 2.9.
    """
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF") if settings else ()
    return dict.fromkeys(names, settings)
