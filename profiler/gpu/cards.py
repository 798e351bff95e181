"""GPUs that a run can be predicted for: memory, streaming multiprocessors, compute capability."""

import difflib
import re
from dataclasses import dataclass, replace

from profiler.errors import ProfilerError
from profiler.units import GIB, MIB, is_size, parse_bytes


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
_GIVEN_SIZE = "size given by the user"

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

# The names of cards in shops and in drivers carry these; they tell no two cards of the table apart.
_BRANDS = {"nvidia", "geforce", "tesla", "quadro"}


def find_gpu(name: str) -> GPU:
    """The GPU called `name`, or a card of the A100 kind with the memory that `name` states.

    Case, spaces, dashes, underscores and brands do not matter, and any words of a name do where only one
    card has them all: "h100", "4090", "NVIDIA A100 80GB". A size, such as "24 GiB" (1024³) or "24 GB"
    (1000³), gives the A100's kernels (108 multiprocessors, capability 8.0) that many bytes: kernels' scratch
    depends on the card, so a size alone cannot say more.

    Raises ProfilerError that lists the known names, close matches first.
    """
    if is_size(name):
        memory_bytes = parse_bytes(name)
        if memory_bytes == 0:
            raise ProfilerError("a GPU of 0 bytes holds nothing; give a size such as '24 GiB'")
        return replace(
            GPUS["A100-80GB"], name=name.strip(), memory_bytes=memory_bytes, memory_source=_GIVEN_SIZE
        )
    words = _words(name)
    matches = _matches(words)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ProfilerError(f"{name!r} is ambiguous: " + " or ".join(gpu.name for gpu in matches))
    plain = {"".join(_words(known)): known for known in GPUS}
    close = difflib.get_close_matches("".join(words), plain, n=3, cutoff=0.5)
    hint = ", ".join(plain[match] for match in close)
    raise ProfilerError(
        f"unknown GPU {name!r}" + (f"; close: {hint}" if hint else "") + f"; known: {', '.join(GPUS)};"
        " or give a memory size such as '24 GiB'"
    )


def _matches(words: list[str]) -> list[GPU]:
    """The cards of that name; if none, of that name but for the memory; if none, those with all the words."""
    plain = "".join(words)
    known = {gpu.name: _words(gpu.name) for gpu in GPUS.values()}
    whole = [gpu for gpu in GPUS.values() if "".join(known[gpu.name]) == plain]
    short = [gpu for gpu in GPUS.values() if "".join(_without_memory(known[gpu.name])) == plain]
    return whole or short or [gpu for gpu in GPUS.values() if _has_all(known[gpu.name], words)]


def _has_all(known: list[str], words: list[str]) -> bool:
    """Whether all words are the card's, its memory with or without "GB", and not only its memory."""
    model = set(_without_memory(known))
    memory = {word.removesuffix("gb") for word in set(known) - model} | (set(known) - model)
    return bool(model & set(words)) and set(words) <= model | memory


def _words(name: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9.]+", name.lower()) if word not in _BRANDS]


def _without_memory(words: list[str]) -> list[str]:
    return words[:-1] if re.fullmatch(r"[0-9]+gb", words[-1]) else words
