"""GPUs that a run can be predicted for: memory, streaming multiprocessors, compute capability."""

import difflib
import re
from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class GPU:
    """What the allocator and the kernels see of one GPU.

    memory_bytes: device memory as the CUDA runtime reports it, less than the size on the box (an
        H100 80GB shows 79.2 GiB). Drivers and ECC move it by some MiB.
    sms: streaming multiprocessors (`multi_processor_count`).
    max_threads_per_sm: `max_threads_per_multi_processor`.
    capability: CUDA compute capability (major, minor).
    memory_source: where `memory_bytes` comes from.
    """

    name: str
    memory_bytes: int
    sms: int
    max_threads_per_sm: int
    capability: tuple[int, int]
    memory_source: str


def _gib(value: float) -> int:
    return round(value * GIB)


_DEVICE_QUERY = "cudaGetDeviceProperties, published deviceQuery output"

GPUS: dict[str, GPU] = {
    gpu.name: gpu
    for gpu in (
        GPU("V100-16GB", 16945512448, 80, 2048, (7, 0), _DEVICE_QUERY),
        GPU("V100-32GB", 34089730048, 80, 2048, (7, 0), _DEVICE_QUERY),
        GPU("T4-16GB", 15642329088, 40, 1024, (7, 5), _DEVICE_QUERY),
        GPU("A10-24GB", 23696375808, 72, 1536, (8, 6), _DEVICE_QUERY),
        GPU("A100-40GB", 42298834944, 108, 2048, (8, 0), _DEVICE_QUERY),
        GPU("A100-80GB", 84987740160, 108, 2048, (8, 0), _DEVICE_QUERY),
        GPU("L40S-48GB", 47576711168, 142, 1536, (8, 9), _DEVICE_QUERY),
        GPU("L4-24GB", 23612293120, 58, 1536, (8, 9), _DEVICE_QUERY),
        GPU("RTX-3090", 25447170048, 82, 1536, (8, 6), _DEVICE_QUERY),
        GPU(
            "RTX-4090",
            _gib(23.52),
            128,
            1536,
            (8, 9),
            "total capacity in a published torch out-of-memory error, to 0.01 GiB",
        ),
        GPU("RTX-5090", 33680457728, 170, 1536, (12, 0), _DEVICE_QUERY),
        GPU(
            "RTX-PRO-6000-96GB",
            _gib(94.97),
            188,
            1536,
            (12, 0),
            "cudaMemGetInfo in a published log, to 0.01 GiB",
        ),
        GPU("H100-80GB", 85017755648, 132, 2048, (9, 0), _DEVICE_QUERY),
        GPU(
            "H200-141GB",
            143156 * MIB,
            132,
            2048,
            (9, 0),
            "torch.cuda.get_device_properties, published, to 1 MiB",
        ),
        GPU(
            "B200-180GB",
            _gib(178.35),
            148,
            2048,
            (10, 0),
            "cudaGetDeviceProperties in a published log, to 0.01 GiB",
        ),
    )
}

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(GiB|GB|MiB|MB)\s*", re.IGNORECASE)
_UNIT_BYTES = {"gib": GIB, "gb": 10**9, "mib": MIB, "mb": 10**6}


def gpu_by_name(name: str) -> GPU:
    """The GPU called `name`, or a card of the A100 kind with the memory that `name` states.

    Names match without case, spaces, dashes or underscores, and a memory suffix may be left out
    where only one card fits ("h100", "RTX 4090"). A size, such as "24 GiB" or "80 GB", gives the
    A100's kernels (108 multiprocessors, capability 8.0) that many bytes: kernels' scratch depends
    on the card, so a size alone cannot say more.

    Raises ValueError that lists the known names, close matches first.
    """
    size = _SIZE.fullmatch(name)
    if size:
        memory_bytes = int(float(size[1]) * _UNIT_BYTES[size[2].lower()])
        if memory_bytes == 0:
            raise ValueError("a GPU of 0 bytes holds nothing; give a size such as '24 GiB'")
        a100 = GPUS["A100-80GB"]
        return GPU(
            name.strip(),
            memory_bytes,
            a100.sms,
            a100.max_threads_per_sm,
            a100.capability,
            "size given by the user",
        )
    wanted = _plain(name)
    matches = [gpu for gpu in GPUS.values() if _plain(gpu.name) == wanted]
    matches = matches or [gpu for gpu in GPUS.values() if wanted and _without_memory(gpu.name) == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"{name!r} is ambiguous: " + " or ".join(gpu.name for gpu in matches))
    close = difflib.get_close_matches(wanted, [_plain(known) for known in GPUS], n=3, cutoff=0.5)
    hint = ", ".join(known for known in GPUS if _plain(known) in close)
    raise ValueError(
        f"unknown GPU {name!r}" + (f"; close: {hint}" if hint else "") + f"; known: {', '.join(GPUS)};"
        " or give a memory size such as '24 GiB'"
    )


def _plain(name: str) -> str:
    return (
        re.sub(r"[\s_-]", "", name)
        .lower()
        .removeprefix("nvidia")
        .removeprefix("geforce")
        .removeprefix("tesla")
    )


def _without_memory(name: str) -> str:
    return _plain(re.sub(r"-[0-9]+GB$", "", name))
