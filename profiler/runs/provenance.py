"""Where a measurement was taken: device, driver, library versions, allocator settings."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU
from profiler.gpu.virtual.card_file import ENVIRONMENT_VARIABLE


def default_device() -> str:
    """ "cuda" where torch finds a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device_type: str) -> None:
    """Raise ProfilerError unless the device is there."""
    import torch

    if device_type == "cuda" and not torch.cuda.is_available():
        raise ProfilerError("torch finds no CUDA device here; use --device cpu")


def device_class(device_type: str) -> str:
    """The name of the results folder: "cpu", or the GPU's name as in "nvidia-h100-80gb-hbm3", with
    "virtual-" before that of a virtual one."""
    if device_type == "cpu":
        return "cpu"
    return in_a_path(_gpu_name())


def _gpu_name() -> str:
    """The GPU's name; that of a virtual one says so."""
    import torch

    name = torch.cuda.get_device_name()
    return f"virtual {name}" if os.environ.get(ENVIRONMENT_VARIABLE) else name


def in_a_path(name: str) -> str:
    """The name of a device as a folder has it: lower case, hyphens between."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def gpu_here() -> GPU:
    """The GPU that is here, as a simulation needs it."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return GPU(
        name=properties.name,
        device_name=properties.name,
        capability=(properties.major, properties.minor),
        sms=properties.multi_processor_count,
        memory_bytes=properties.total_memory,
        memory_low_bytes=properties.total_memory,
        memory_high_bytes=properties.total_memory,
        memory_is_exact=True,
        nvml_total_bytes=properties.total_memory,
        l2_cache_bytes=properties.L2_cache_size,
        memory_bus_bits=properties.memory_bus_width,
        memory_clock_khz=properties.memory_clock_rate,
        clock_khz=properties.clock_rate,
        copy_engines=0,
        ecc=False,
        pci_device_id=0,
        source="torch.cuda.get_device_properties on this device",
    )


def provenance(device_type: str) -> dict[str, str | None]:
    """The provenance columns of a record (profiler.records.table), for this machine, now."""
    import torch

    settings = os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF") or ""
    on_cuda = device_type == "cuda"
    return {
        "device_name": _gpu_name() if on_cuda else _processor_name(),
        "driver_version": _driver_version() if on_cuda else None,
        "cuda_version": torch.version.cuda,
        "torch_version": torch.__version__,
        "transformers_version": version("transformers"),
        "python_version": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "allocator_settings": settings,
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _driver_version() -> str | None:
    try:
        lines = Path("/proc/driver/nvidia/version").read_text().splitlines()
    except OSError:
        return None
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", lines[0])
    return found.group() if found else None
