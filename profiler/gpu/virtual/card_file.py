"""The GPUs that are not there, as the stand-ins read them: a small text file named by one variable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.gpu.capability import limits_of
from profiler.gpu.cards import GPU
from profiler.gpu.device_used import DeviceTerm, in_total, nccl_term, process_terms

ENVIRONMENT_VARIABLE = "PROFILER_VIRTUAL_GPU"
MOST_DEVICES = 16


@dataclass(frozen=True)
class VirtualGPUs:
    """GPUs of one kind.

    context_bytes: what the program gets of no GPU: the CUDA context, kernels and handles of libraries. None:
        what processes on this card typically took (profiler.gpu.device_used.process_terms).
    rising_addresses: new segments stand above the old ones. The driver for Linux puts them below; above was
        seen in recordings from Windows. The order decides between free blocks of the same size.
    lone_rank: the process stands for one rank of many: collectives answer as if all ranks had what it has.
    events_wait: events end when the program waits for the device, not at once: blocks that another stream
        used come back as late as on a GPU that is behind. On a GPU it is between the two.
    nccl_bytes: what NCCL takes for each communicator of several ranks. None: typically, with rings and trees
        over NVLink (profiler.gpu.device_used.nccl_term).
    """

    gpu: GPU
    devices: int = 1
    context_bytes: int | None = None
    rising_addresses: bool = False
    lone_rank: bool = False
    events_wait: bool = False
    nccl_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.devices <= MOST_DEVICES:
            raise ProfilerError(f"{self.devices} GPUs; there can be 1 to {MOST_DEVICES}")
        if not 0 <= self.taken_bytes < self.gpu.memory_bytes:
            raise ProfilerError("the CUDA context takes at least nothing and less than the card's memory")

    @property
    def taken_bytes(self) -> int:
        """The context's bytes, as stated or as is typical of the card."""
        if self.context_bytes is not None:
            return self.context_bytes
        return in_total(process_terms(self.gpu)).typical_bytes


def nccl_of(gpu: GPU, communicators: int = 1) -> DeviceTerm:
    """What NCCL takes of each of these GPUs.

    NVLink joins the boards of data centres (capability X.0) that are not PCIe cards.
    """
    nvlink = gpu.capability[1] == 0 and "PCI" not in gpu.device_name
    return nccl_term(2, communicators, nvlink)


def write_card(
    gpus: VirtualGPUs, path: Path, journal_folder: Path, cudnn: Path | None = None, cudnn_version: int = 0
) -> None:
    """The GPUs as lines of "key value" (struct card in stand_ins/common.h).

    journal_folder: where each process writes what it met.
    cudnn: the cuDNN that is installed, None: none; cudnn_version: that torch asks for (92400 is 9.24.0).
    """
    gpu = gpus.gpu
    limits = limits_of(gpu.capability)
    values: dict[str, str | int] = {
        "name": gpu.device_name,
        "journal_folder": str(journal_folder),
        "devices": gpus.devices,
        "memory_bytes": gpu.memory_bytes,
        "context_bytes": gpus.taken_bytes,
        "major": gpu.capability[0],
        "minor": gpu.capability[1],
        "multiprocessors": gpu.sms,
        "threads_per_multiprocessor": limits.max_threads_per_sm,
        "blocks_per_multiprocessor": limits.max_blocks_per_sm,
        "shared_memory_per_multiprocessor_bytes": limits.shared_per_sm_bytes,
        "shared_memory_per_block_optin_bytes": limits.shared_per_block_optin_bytes,
        "reserved_shared_memory_per_block_bytes": limits.reserved_shared_per_block_bytes,
        "shared_memory_unit_bytes": limits.shared_unit_bytes,
        "clusters": int(limits.clusters),
        "l2_cache_bytes": gpu.l2_cache_bytes,
        "memory_bus_bits": gpu.memory_bus_bits,
        "clock_khz": gpu.clock_khz,
        "memory_clock_khz": gpu.memory_clock_khz,
        "copy_engines": gpu.copy_engines,
        "ecc": int(gpu.ecc),
        "nvml_total_bytes": gpu.nvml_total_bytes,
        "pci_device_id": gpu.pci_device_id,
        "rising_addresses": int(gpus.rising_addresses),
        "cudnn_library": str(cudnn or ""),
        "cudnn_version": cudnn_version,
        "lone_rank": int(gpus.lone_rank),
        "events_wait": int(gpus.events_wait),
        "nccl_bytes": nccl_of(gpu).typical_bytes if gpus.nccl_bytes is None else gpus.nccl_bytes,
    }
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    if text.count("\n") != len(values):
        raise ProfilerError("a card's name and the path of a temporary folder are one line each")
    path.write_text(text)
