"""How a workload is run: everything beside itself and the device that decides what memory it takes."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.errors import ProfilerError
from profiler.workload import Sharding

ATTENTION_KERNELS = ("", "math", "efficient", "flash", "cudnn")


@dataclass(frozen=True)
class RunSettings:
    """How to run.

    Attributes:
        limit_bytes: memory that the run may take beyond what the libraries use; None for all there is.
        allocator_settings: as PYTORCH_ALLOC_CONF has them in the process that runs; "" to leave it alone.
        attention_kernel: the only kernel that scaled dot product attention may use; "" for torch's choice.
        timeout_seconds: a run that is silent for so long, which is longer than a phase takes, is ended.
        sharding: run as one rank of many, in a process whose environment says which; None: one GPU alone.
    """

    limit_bytes: int | None = None
    allocator_settings: str = ""
    attention_kernel: str = ""
    timeout_seconds: float | None = None
    sharding: Sharding | None = None

    def __post_init__(self) -> None:
        """Raise ProfilerError for an attention kernel that torch does not have."""
        if self.attention_kernel not in ATTENTION_KERNELS:
            known = ", ".join(ATTENTION_KERNELS[1:])
            raise ProfilerError(f"unknown attention kernel {self.attention_kernel!r}; known: {known}")
