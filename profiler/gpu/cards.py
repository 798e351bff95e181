"""GPUs by name: what the CUDA runtime says of each card. The cards themselves stand in cards.toml.

A new GPU is one entry of cards.toml; what follows from its compute capability stands in capability.py.
A card of the user's own is a file of the same keys: `--gpu card.toml`.
"""

import difflib
import re
import tomllib
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from profiler.errors import ProfilerError, first_line
from profiler.gpu.capability import LIMITS, Limits, limits_of
from profiler.units import MIB, is_size, parse_bytes

DEFAULT_GPU = "A100-40GB"
UNLIMITED_BYTES = 2**50  # the memory of a GPU on which everything fits


@dataclass(frozen=True)
class GPU:
    """One GPU, as host code sees it: cudaDeviceProp, cudaMemGetInfo, NVML.

    name: as the command line takes it.
    device_name: as `torch.cuda.get_device_name` gives it.
    capability: CUDA compute capability (major, minor).
    sms: streaming multiprocessors (`multiProcessorCount`).
    memory_bytes: `totalGlobalMem`, the total of cudaMemGetInfo: less than the size on the box, since ECC and
        the driver take their part (an H100 80GB shows 79.2 GiB).
    memory_low_bytes, memory_high_bytes: the least and the most that a source reports; they differ where
        drivers do, or where the figure is only known rounded.
    memory_is_exact: whether memory_bytes was printed to the byte; otherwise it is rounded as `source` says.
    nvml_total_bytes: the total that nvidia-smi shows, what the driver keeps for itself included.
    l2_cache_bytes, memory_bus_bits, memory_clock_khz, clock_khz, copy_engines (`asyncEngineCount`), ecc.
    pci_device_id: NVIDIA's number of the product (`nvidia-smi -q`, "Device Id"; not `pciDeviceID` of
        cudaDeviceProp, which is the slot); 0 where it is not known.
    source: where the figures come from.
    """

    name: str
    device_name: str
    capability: tuple[int, int]
    sms: int
    memory_bytes: int
    memory_low_bytes: int
    memory_high_bytes: int
    memory_is_exact: bool
    nvml_total_bytes: int
    l2_cache_bytes: int
    memory_bus_bits: int
    memory_clock_khz: int
    clock_khz: int
    copy_engines: int
    ecc: bool
    pci_device_id: int
    source: str

    @property
    def limits(self) -> Limits:
        """The limits of one multiprocessor, which follow from the capability."""
        return limits_of(self.capability)

    @property
    def max_threads_per_sm(self) -> int:
        return self.limits.max_threads_per_sm

    def with_memory(self, memory_bytes: int, name: str, source: str) -> "GPU":
        """The same card with other memory, exactly that."""
        return replace(
            self,
            name=name,
            device_name=name,
            memory_bytes=memory_bytes,
            memory_low_bytes=memory_bytes,
            memory_high_bytes=memory_bytes,
            memory_is_exact=True,
            nvml_total_bytes=memory_bytes,
            source=source,
        )


# The least and the most of each number in a card's file: what no card can be is a slip of the pen.
_BOUNDS = {
    "sms": (1, 4096),
    "memory_bytes": (MIB, 1 << 44),
    "memory_low_bytes": (MIB, 1 << 44),
    "memory_high_bytes": (MIB, 1 << 44),
    "nvml_total_bytes": (MIB, 1 << 44),
    "l2_cache_bytes": (0, 1 << 34),
    "memory_bus_bits": (1, 1 << 20),
    "memory_clock_khz": (0, 10**9),
    "clock_khz": (0, 10**9),
    "copy_engines": (0, 64),
    "pci_device_id": (0, 0xFFFF),
}
_KEYS = {field.name for field in fields(GPU)} - {"name"}
_LARGEST_FILE_BYTES = 1 << 16


def card_from_file(path: Path) -> GPU:
    """The card that the user describes in a TOML file with the keys of GPU.

    capability is written "8.9". `like = "RTX-4090"` takes from that card what the file does not state;
    without it every key must be there but name (the file's, if not stated), device_name, source, the range
    of memory and what NVML says.

    Raises ProfilerError, one line, for a file that is not there, not TOML or not a card.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE_BYTES + 1)
        if len(text) > _LARGEST_FILE_BYTES:
            raise ProfilerError(f"{path} is no card: it is longer than {_LARGEST_FILE_BYTES} bytes")
        stated = tomllib.loads(text.decode())
    except OSError as error:
        raise ProfilerError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfilerError(f"{path} is not TOML: {first_line(error)}") from None
    name = stated.pop("name", path.stem)
    like = stated.pop("like", None)
    if not isinstance(name, str) or not isinstance(like, str | None):
        raise ProfilerError(f"{path}: name and like are words in quotes")
    base: dict[str, Any] = {"source": f"stated in {path.name}"}
    if like is not None:
        given = find_gpu(like)
        base = {key: getattr(given, key) for key in _KEYS} | base
        base["capability"] = "{}.{}".format(*given.capability)
        if "memory_bytes" in stated:  # the other card's range is not this one's
            for key in ("memory_low_bytes", "memory_high_bytes", "nvml_total_bytes"):
                base[key] = stated["memory_bytes"]
    return _card(name, {"device_name": name, **base, **stated}, str(path))


def _card(name: str, stated: dict[str, Any], where: str) -> GPU:
    """The card of these keys; raises ProfilerError, beginning with `where`, if they make none."""
    for key in stated:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            raise ProfilerError(f"{where}: no card has {key!r}" + (f"; is it {close[0]}?" if close else ""))
    memory_bytes = stated.get("memory_bytes")
    stated = {
        "memory_low_bytes": memory_bytes,
        "memory_high_bytes": memory_bytes,
        "memory_is_exact": True,
        "nvml_total_bytes": memory_bytes,
        **stated,
    }
    missing = sorted(key for key in _KEYS if stated.get(key) is None)
    if missing:
        raise ProfilerError(
            f"{where}: {missing[0]} is missing; state it, or add the card to take it from: like = 'H100-80GB'"
        )
    for key, (least, most) in _BOUNDS.items():
        value = stated[key]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ProfilerError(f"{where}: {key} is a whole number from {least} to {most}, not {value!r}")
    for key in ("memory_is_exact", "ecc"):
        if not isinstance(stated[key], bool):
            raise ProfilerError(f"{where}: {key} is true or false, not {stated[key]!r}")
    for key in ("device_name", "source"):
        if not isinstance(stated[key], str) or not 0 < len(stated[key].encode()) < 256:
            raise ProfilerError(f"{where}: {key} is a text of 1 to 255 bytes")
    if not stated["memory_low_bytes"] <= stated["memory_bytes"] <= stated["memory_high_bytes"]:
        raise ProfilerError(
            f"{where}: memory_bytes does not lie between memory_low_bytes and memory_high_bytes"
        )
    known = {f"{major}.{minor}": (major, minor) for major, minor in LIMITS}
    capability = stated["capability"]
    if not isinstance(capability, str) or capability not in known:
        raise ProfilerError(f"{where}: capability is one of {', '.join(known)} in quotes, not {capability!r}")
    return GPU(name=name, **{**stated, "capability": known[capability]})


def _read_table() -> dict[str, GPU]:
    table = tomllib.loads(files("profiler.gpu").joinpath("cards.toml").read_text())
    return {name: _card(name, keys, f"cards.toml, {name}") for name, keys in table.items()}


GPUS: dict[str, GPU] = _read_table()

# The names of cards in shops and in drivers carry these; they tell no two cards of the table apart.
_BRANDS = {"nvidia", "geforce", "tesla", "quadro"}


def find_gpu(name: str) -> GPU:
    """The GPU called `name`, or a card of the A100 kind with the memory that `name` states.

    Case, spaces, dashes, underscores and brands do not matter, and any words of a name do where only one
    card has them all: "h100", "4090", "NVIDIA A100 80GB". A size, such as "24 GiB" (1024³) or "24 GB"
    (1000³), gives the A100's kernels (108 multiprocessors, capability 8.0) that many bytes: kernels' scratch
    depends on the card, so a size alone cannot say more. "card.toml" is a card of the user's own
    (card_from_file).

    Raises ProfilerError that lists the known names, close matches first.
    """
    if is_size(name):
        memory_bytes = parse_bytes(name)
        if memory_bytes == 0:
            raise ProfilerError("a GPU of 0 bytes holds nothing; give a size such as '24 GiB'")
        return GPUS["A100-80GB"].with_memory(memory_bytes, name.strip(), "size given by the user")
    if name.endswith(".toml"):
        return card_from_file(Path(name))
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
        " or give a memory size such as '24 GiB', or a file that describes the card: card.toml"
    )


def _matches(words: list[str]) -> list[GPU]:
    """The cards of that name; if none, of that name but for the memory; if none, those with all the words
    and the fewest others."""
    plain = "".join(words)
    known = {gpu.name: _words(gpu.name) for gpu in GPUS.values()}
    whole = [
        gpu for gpu in GPUS.values() if plain in ("".join(known[gpu.name]), "".join(_words(gpu.device_name)))
    ]
    short = [gpu for gpu in GPUS.values() if "".join(_without_memory(known[gpu.name])) == plain]
    found = whole or short or [gpu for gpu in GPUS.values() if _has_all(known[gpu.name], words)]
    unsaid = {gpu.name: len(set(_without_memory(known[gpu.name])) - set(words)) for gpu in found}
    return [gpu for gpu in found if unsaid[gpu.name] == min(unsaid.values())]


def _has_all(known: list[str], words: list[str]) -> bool:
    """Whether all words are the card's, its memory with or without "GB", and not only its memory."""
    model = set(_without_memory(known))
    memory = {word.removesuffix("gb") for word in set(known) - model} | (set(known) - model)
    return bool(model & set(words)) and set(words) <= model | memory


def _words(name: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9.]+", name.lower()) if word not in _BRANDS]


def _without_memory(words: list[str]) -> list[str]:
    return words[:-1] if re.fullmatch(r"[0-9]+gb", words[-1]) else words
