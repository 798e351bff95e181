"""How a workload is run: everything beside the workload itself that decides what memory it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU

ATTENTION_KERNELS = ("", "math", "efficient", "flash", "cudnn")


@dataclass(frozen=True)
class RunSettings:
    """Where and how to run.

    Attributes:
        device_type: "cpu", "cuda" or "simulated".
        limit_bytes: memory that the run may take beyond what the libraries use; None for all there is.
        gpu: the GPU to simulate, for "simulated" only.
        allocator_settings: what PYTORCH_CUDA_ALLOC_CONF says in the process that runs; "" to leave it alone.
        attention_kernel: the only kernel that scaled dot product attention may use; "" for torch's choice.
        trace: file for every allocation and free (profiler.trace.file); None for none.
        timeout_seconds: a run that is silent for so long, which is longer than a phase takes, is ended.
    """

    device_type: str
    limit_bytes: int | None = None
    gpu: GPU | None = None
    allocator_settings: str = ""
    attention_kernel: str = ""
    trace: Path | None = None
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        """Raise ProfilerError for an attention kernel that torch does not have."""
        if self.attention_kernel not in ATTENTION_KERNELS:
            known = ", ".join(ATTENTION_KERNELS[1:])
            raise ProfilerError(f"unknown attention kernel {self.attention_kernel!r}; known: {known}")
