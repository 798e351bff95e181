"""Where a run takes place: on the CPU, on the GPU that is here, or on one that is not."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU, find_gpu

CPU, CUDA, SIMULATED, VIRTUAL, UNKNOWN = "cpu", "cuda", "simulated", "virtual", "unknown"
ENGINES = (VIRTUAL, SIMULATED)  # what stands for a GPU that is not here, the best first


@dataclass(frozen=True)
class Device:
    """Where a run takes place.

    Attributes:
        kind: CPU or CUDA, which are here; SIMULATED, on which torch computes nothing and the allocator is a
            model; VIRTUAL, the CUDA build of torch on a stand-in for the driver; UNKNOWN where a file does
            not say.
        gpu: the GPU; None on the CPU, and where nobody has asked CUDA or a file does not say.
    """

    kind: str
    gpu: GPU | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a kind that there is not, and for a GPU that is not there and not named."""
        named = self.gpu is not None or self.kind not in ENGINES
        if self.kind not in (CPU, CUDA, UNKNOWN, *ENGINES) or not named:
            raise ValueError(f"no device {self.kind!r} with GPU {self.gpu}")

    @property
    def type(self) -> str:
        """What torch calls it: "cpu" or "cuda"."""
        return CPU if self.kind == CPU else CUDA

    @property
    def is_here(self) -> bool:
        """Whether kernels run, so that values are those of the real step and its memory is measured."""
        return self.kind not in ENGINES

    def __str__(self) -> str:
        if self.gpu is None:
            return {CPU: "the CPU", CUDA: "a CUDA device"}.get(self.kind, "an unnamed device")
        return self.gpu.name if self.kind == CUDA else f"a {self.kind} {self.gpu.name}"


def device_called(name: str) -> Device:
    """ "cpu", "cuda", or the simulated GPU of a name; raises ProfilerError for anything else."""
    if name in (CPU, CUDA):
        return Device(name)
    try:
        return Device(SIMULATED, find_gpu(name))
    except ProfilerError as error:
        raise ProfilerError(f"--device takes cuda, cpu or the name of a GPU to simulate: {error}") from None
