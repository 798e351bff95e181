"""Where a measurement was taken: device, driver, library versions, allocator settings."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from profiler.device import CPU, CUDA, SIMULATED, VIRTUAL, Device
from profiler.errors import ProfilerError, first_line
from profiler.gpu.cards import GPU
from profiler.gpu.virtual.card_file import ENVIRONMENT_VARIABLE
from profiler.runs.processes import in_fresh_process

version_of = cache(version)  # of an installed package; reading what it says of itself takes a millisecond


def default_device() -> Device:
    """CUDA where torch finds a GPU, else the CPU."""
    import torch

    return Device(CUDA if torch.cuda.is_available() else CPU)


def check_device(device: Device) -> None:
    """Raise ProfilerError unless a device that is said to be here is."""
    import torch

    if device.kind == CUDA and not torch.cuda.is_available():
        raise ProfilerError("torch finds no CUDA device here; use --device cpu")


def device_class(device: Device) -> str:
    """The name of the results folder: "cpu", or the GPU's name as in "nvidia-h100-80gb-hbm3", with
    "virtual-" before that of a virtual one."""
    return CPU if device.kind == CPU else in_a_path(_device_name(device))


def _device_name(device: Device) -> str:
    """The processor's name, or the GPU's; that of a virtual one says so."""
    import torch

    if device.kind == CUDA:
        name = torch.cuda.get_device_name()
        return f"virtual {name}" if os.environ.get(ENVIRONMENT_VARIABLE) else name
    if device.kind == VIRTUAL:
        assert device.gpu is not None
        return f"virtual {device.gpu.device_name}"
    return device.gpu.name if device.gpu is not None else _processor_name()


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


def provenance(device: Device) -> dict[str, str | None]:
    """The provenance columns of a record (profiler.records.table), for this machine, now."""
    import torch

    settings = os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF") or ""
    return {
        "device_name": _device_name(device),
        "driver_version": _driver_version() if device.kind == CUDA else None,
        "cuda_version": torch.version.cuda,
        "torch_version": torch.__version__,
        "transformers_version": version_of("transformers"),
        "python_version": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "allocator_settings": settings,
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def ask_device(device: Device) -> dict[str, Any]:
    """Its class, its provenance, and as "gpu" the fields of profiler.gpu.cards.GPU (None on a CPU).

    Asked in a process of its own, so that this one takes no memory of the device.
    Raises ProfilerError if there is no such device.
    """
    facts: dict[str, Any] = in_fresh_process(_answers, device, name="asking the device")
    return facts


def _answers(device: Device) -> dict[str, Any]:
    import torch

    try:
        if device.kind == CUDA and not torch.cuda.is_available():
            raise ProfilerError(
                "torch finds no CUDA device here; `--device H100 --results FOLDER` rehearses without"
            )
        about: dict[str, Any] = {"device": device_class(device), **provenance(device)}
        about |= {"gpu": None, "free_bytes": None}
        if device.kind == CUDA:
            about |= {"gpu": asdict(gpu_here()), "free_bytes": torch.cuda.mem_get_info()[0]}
            about["cudnn_version"] = torch.backends.cudnn.version()
    except RuntimeError as error:  # a driver too old, say
        raise ProfilerError(f"the device does not answer: {first_line(error)}") from error
    if device.gpu is not None:  # not here, and says so
        about |= {"gpu": asdict(device.gpu), "free_bytes": device.gpu.memory_bytes}
    if device.kind == SIMULATED:
        about["device"] = f"{device.kind}-{about['device']}"
        about["device_name"] = f"{device.kind} {about['device_name']}"
    return about


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
