"""What a GPU's memory holds beyond what PyTorch's allocator reserves: what nvidia-smi says more.

Each part is a DeviceTerm with a range, since drivers, libraries and topologies differ; the source says what
was measured and by whom. What PyTorch reserves comes in pages of 2 MiB already
(c10/cuda/CUDACachingAllocator.cpp rounds segments up to 2 MiB, cudaMalloc hands out such pages), so nothing
is added for pages.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import median

from profiler.gpu.cards import GPU, GPUS
from profiler.units import GIB, MIB

# 0.92 and 0.47 GiB with one tensor of four bytes.
_EAGER_ON_AN_A100_BYTES = round(0.45 * GIB)


@dataclass(frozen=True)
class DeviceTerm:
    """Device memory outside PyTorch's allocator.

    low_bytes, typical_bytes, high_bytes: the least, the middle and the most that the source has seen.
    """

    name: str
    low_bytes: int
    typical_bytes: int
    high_bytes: int
    source: str


def process_terms(gpu: GPU, eager_modules: bool = False) -> tuple[DeviceTerm, ...]:
    """What one process takes of `gpu` for itself: the CUDA context, kernels and handles of libraries.

    eager_modules: CUDA_MODULE_LOADING=EAGER, all kernels loaded at once; lazily is the default (CUDA 11.7 and
        later, as PyTorch sets it; 12.2 and later by itself).

    The sum is what published out-of-memory messages leave of a process on this card or the nearest one (its
    capability, then its number of multiprocessors: the context keeps stacks for each of them). Nine tenths of
    it are there from the first CUDA call on: a bare context was measured at 256 MiB on an RTX 3090
    (invoke-ai/InvokeAI#9413), 426 MiB on an RTX 6000 Ada (unslothai/unsloth-zoo#1053) and 0.47 GiB on an A100
    (stas00/ml-engineering), 83 to 95 % of the messages' median. The rest comes with the first kernels, cuBLAS
    and cuDNN; each further cuBLAS handle (one a thread) takes 8.5 MiB (68 MiB for 8 in a published probe).
    """
    low_bytes, typical_bytes, high_bytes, source = _left_by_messages(gpu)
    context = DeviceTerm(
        "CUDA context", low_bytes * 9 // 10, typical_bytes * 9 // 10, high_bytes * 9 // 10, source
    )
    later = DeviceTerm(
        "kernels and library handles",
        low_bytes - context.low_bytes,
        typical_bytes - context.typical_bytes,
        high_bytes - context.high_bytes,
        source,
    )
    terms = [context, later]
    if eager_modules:
        terms.append(
            DeviceTerm(
                "kernels loaded at once",
                666_632_192 - 287_047_680,
                (666_632_192 - 287_047_680 + _EAGER_ON_AN_A100_BYTES) // 2,
                _EAGER_ON_AN_A100_BYTES,
                "eagerly less lazily: pytorch/pytorch#86509 (CUDA 11.7), stas00/ml-engineering (A100)",
            )
        )
    return tuple(terms)


def kept_by_the_driver(gpu: GPU) -> DeviceTerm:
    """What no program gets: the total of NVML less that of the CUDA runtime.

    nvidia-smi shows it as "reserved" and not as used (driver 510 and later: nvmlDeviceGetMemoryInfo_v2);
    programs that read nvmlDeviceGetMemoryInfo, the first version, see it as used. It adds nothing to what is
    compared with the card's `memory_bytes`.
    """
    return DeviceTerm(
        "kept by the driver",
        gpu.nvml_total_bytes - gpu.memory_high_bytes,
        gpu.nvml_total_bytes - gpu.memory_bytes,
        gpu.nvml_total_bytes - gpu.memory_low_bytes,
        "nvidia-smi's total less totalGlobalMem; nvml.h, nvmlMemory_v2_t: reserved by driver and firmware",
    )


# NCCL's buffers of one connection, src/init.cc and src/include/device.h: steps x threads x elements x bytes.
_NCCL_STEPS = 8
_LL_BYTES = 8 * 512 * _NCCL_STEPS * 16
_LL128_BYTES = 120 * 640 * _NCCL_STEPS * 8
SIMPLE_BYTES = 4 * MIB
_PAGE_BYTES = 2 * MIB


def nccl_connection_bytes(buffer_bytes: int = SIMPLE_BYTES) -> int:
    """Device memory of one connection to a peer in one channel: its receiving and its sending side.

    buffer_bytes: NCCL_BUFFSIZE, the buffer of the protocol Simple.

    The receiver holds a buffer for each protocol (LL, LL128, Simple) behind a small header, the sender a
    header, each in pages of 2 MiB: 10,485,760 and 2,097,152 bytes, as NVIDIA/nccl#1685 counts them.
    """
    receiving_bytes = _LL_BYTES + _LL128_BYTES + buffer_bytes + 1
    pages = -(-receiving_bytes // _PAGE_BYTES)
    return pages * _PAGE_BYTES + _PAGE_BYTES


def nccl_term(
    ranks: int,
    communicators: int = 1,
    nvlink: bool = True,
    all_to_all: bool = False,
    buffer_bytes: int = SIMPLE_BYTES,
) -> DeviceTerm:
    """What the NCCL communicators of one rank take, of `ranks` GPUs on one node.

    communicators: process groups that have communicated; the memory is linear in them (NVIDIA/nccl#864).
    nvlink: whether NVLink joins the GPUs, as on SXM boards. NCCL's log says "24 coll channels, 32 p2p
        channels per peer" on eight A100 or H100 then, "2 coll channels" on cards that only PCIe joins.
    all_to_all: whether ranks also send to each other directly (all_to_all, send and recv), which connects
        every pair with 32 channels (NVIDIA/nccl#1685).
    buffer_bytes: NCCL_BUFFSIZE.

    A ring connects a rank with one peer each way, rings and trees together with about two; each channel holds
    its connections. Low: the rings alone (nothing without NVLink: buffers may lie in the host's memory).
    High with NVLink: 1.6 GB a communicator (#864); NVLink SHARP and networks take more than rings and trees.

    Against measurements: 544 MiB for 2 ranks and 688 MiB for more of them, four A100 with NVLink
    (NVIDIA/nccl#964), 576 MiB here; 3.28 GB with the first all_to_all of eight H100 (#1685), 2.82 GB here.
    A group of one rank takes nothing here; NCCL 2.28 was seen to take 512 MiB even then (NVIDIA/nccl#2363).
    """
    name = "NCCL communicators"
    source = "NCCL's sizes of buffers (src/init.cc) times connections; NVIDIA/nccl#964, #864, #1685, #2363"
    if ranks < 2:
        return DeviceTerm(name, 0, 0, 512 * MIB * communicators, source)
    connection_bytes = nccl_connection_bytes(buffer_bytes)
    ring_bytes = (24 if nvlink else 2) * connection_bytes
    pairs_bytes = 32 * (ranks - 1) * connection_bytes if all_to_all else 0
    low_bytes = ring_bytes + pairs_bytes if nvlink else 0
    typical_bytes = 2 * ring_bytes + pairs_bytes
    high_bytes = max(1_600_000_000 if nvlink else 0, 4 * ring_bytes) + pairs_bytes * 6 // 5
    return DeviceTerm(
        name,
        low_bytes * communicators,
        typical_bytes * communicators,
        high_bytes * communicators,
        source,
    )


def device_used_terms(gpu: GPU, reserved_bytes: int, *more: DeviceTerm) -> tuple[DeviceTerm, ...]:
    """What nvidia-smi shows as used by a process: what PyTorch reserves, and all that is beside it.

    reserved_bytes: peak reserved of the allocator. more: terms of the run, as nccl_term's.
    """
    reserved = DeviceTerm(
        "reserved by PyTorch", reserved_bytes, reserved_bytes, reserved_bytes, "the caching allocator"
    )
    return (reserved, *process_terms(gpu), *more)


def in_total(terms: tuple[DeviceTerm, ...], name: str = "outside PyTorch") -> DeviceTerm:
    """The terms added up, end by end."""
    return DeviceTerm(
        name,
        sum(term.low_bytes for term in terms),
        sum(term.typical_bytes for term in terms),
        sum(term.high_bytes for term in terms),
        "; ".join(dict.fromkeys(term.source for term in terms)),
    )


def _left_by_messages(gpu: GPU) -> tuple[int, int, int, str]:
    """Least, median and most bytes, with the source, of the messages of the nearest cards: those of one
    capability whose multiprocessors differ by a seventh at most.
    """
    left = _messages()
    nearest = GPUS[min(left, key=lambda name: _distance(GPUS[name], gpu))]
    alike = [
        name
        for name in left
        if GPUS[name].capability == nearest.capability and _of_one_size(GPUS[name], nearest)
    ]
    sizes = [size for name in alike for size in left[name]]
    source = f"process less PyTorch in {len(sizes)} published out-of-memory message{'s' * (len(sizes) > 1)}: "
    source += ", ".join(alike)
    low_bytes, high_bytes = min(sizes), max(sizes)
    if len(sizes) < 3:
        # As wide about the middle as the eight messages of the T4 lie.
        low_bytes, high_bytes = low_bytes * 3 // 4, high_bytes * 3 // 2
        source += ", widened by what eight of a T4 differ"
    if not _of_one_size(gpu, nearest):
        low_bytes = min(low_bytes, low_bytes * gpu.sms // nearest.sms)
        high_bytes = max(high_bytes, high_bytes * gpu.sms // nearest.sms)
        source += f", widened by the multiprocessors ({gpu.sms}, not {nearest.sms})"
    return low_bytes, round(median(sizes)), high_bytes, source


def _of_one_size(one: GPU, other: GPU) -> bool:
    return abs(one.sms - other.sms) * 7 <= max(one.sms, other.sms)


def _distance(known: GPU, gpu: GPU) -> tuple[int, int, int]:
    """How far two cards are apart: the capability first, the multiprocessors then."""
    return (
        abs(gpu.capability[0] - known.capability[0]),
        abs(gpu.capability[1] - known.capability[1]),
        abs(gpu.sms - known.sms),
    )


@cache
def _messages() -> dict[str, tuple[int, ...]]:
    """By card: the bytes of each process that are not PyTorch's."""
    table = tomllib.loads(files("profiler.gpu").joinpath("messages.toml").read_text())
    return {
        card: tuple(
            round((process_gib - allocated_gib) * GIB - unallocated_mib * MIB)
            for process_gib, allocated_gib, unallocated_mib in messages
        )
        for card, messages in table.items()
    }
