"""The device that a campaign records on, and the facts about it that a prediction needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from profiler.errors import ProfilerError, first_line
from profiler.gpu.cards import GPU, find_gpu
from profiler.runs.processes import in_fresh_process
from profiler.runs.provenance import default_device, device_class, gpu_here, in_a_path, provenance

SIMULATED = "simulated"


@dataclass(frozen=True)
class Target:
    """Where to record: "cuda", "cpu", or a simulated `gpu`, which rehearses a campaign without a GPU."""

    device_type: str
    gpu: GPU | None = None

    @classmethod
    def parse(cls, name: str) -> Target:
        """The target called "cuda", "cpu", or by a GPU's name; raises ProfilerError for anything else."""
        if name in ("cuda", "cpu"):
            return cls(name)
        try:
            return cls(SIMULATED, find_gpu(name))
        except ProfilerError as error:
            raise ProfilerError(
                f"--device takes cuda, cpu or the name of a GPU to simulate: {error}"
            ) from None

    def describe(self) -> dict[str, Any]:
        """Its class, its provenance, and as "gpu" the fields of profiler.gpu.cards.GPU (None on a CPU).

        Asked in a process of its own, so that this one takes no memory of the device.
        Raises ProfilerError if there is no such device.
        """
        facts: dict[str, Any] = in_fresh_process(_describe, self, name="asking the device")
        return facts


def _describe(target: Target) -> dict[str, Any]:
    try:
        return _facts(target)
    except RuntimeError as error:  # a driver too old, say
        raise ProfilerError(f"the device does not answer: {first_line(error)}") from error


def _facts(target: Target) -> dict[str, Any]:
    if target.gpu is not None:
        name = target.gpu.name
        about = provenance("cpu") | {"device_name": f"simulated {name}"}
        device = f"{SIMULATED}-{in_a_path(name)}"
        return {"device": device, **about, "gpu": asdict(target.gpu), "free_bytes": target.gpu.memory_bytes}
    if target.device_type == "cuda" and default_device() != "cuda":
        raise ProfilerError(
            "torch finds no CUDA device here; `--device H100 --results FOLDER` rehearses without"
        )
    device = device_class(target.device_type)
    facts: dict[str, Any] = {
        "device": device,
        **provenance(target.device_type),
        "gpu": None,
        "free_bytes": None,
    }
    if target.device_type == "cuda":
        import torch

        facts |= {"gpu": asdict(gpu_here()), "free_bytes": torch.cuda.mem_get_info()[0]}
        facts["cudnn_version"] = torch.backends.cudnn.version()
    return facts
