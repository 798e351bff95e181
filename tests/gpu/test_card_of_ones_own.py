"""A card that the user describes in a file."""

from pathlib import Path

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPUS, find_gpu

pytestmark = pytest.mark.quick

WHOLE = """
name = "Lab card"
capability = "8.6"
sms = 30
memory_bytes = 8_000_000_000
l2_cache_bytes = 4_194_304
memory_bus_bits = 128
memory_clock_khz = 7_000_000
clock_khz = 1_500_000
copy_engines = 2
ecc = false
pci_device_id = 0x1234
"""


def written(folder: Path, text: str) -> str:
    path = folder / "card.toml"
    path.write_text(text)
    return str(path)


def test_a_whole_card(tmp_path: Path) -> None:
    gpu = find_gpu(written(tmp_path, WHOLE))
    assert (gpu.name, gpu.device_name, gpu.capability, gpu.sms) == ("Lab card", "Lab card", (8, 6), 30)
    assert (
        gpu.memory_low_bytes == gpu.memory_bytes == gpu.memory_high_bytes == gpu.nvml_total_bytes == 8 * 10**9
    )
    assert gpu.memory_is_exact
    assert gpu.max_threads_per_sm == 1536
    assert gpu.source == "stated in card.toml"


def test_a_card_like_another(tmp_path: Path) -> None:
    gpu = find_gpu(written(tmp_path, 'like = "RTX 4090"\nmemory_bytes = 51_000_000_000'))
    assert (gpu.name, gpu.device_name) == ("card", "NVIDIA GeForce RTX 4090")
    assert (gpu.sms, gpu.l2_cache_bytes) == (GPUS["RTX-4090"].sms, GPUS["RTX-4090"].l2_cache_bytes)
    assert gpu.memory_low_bytes == gpu.memory_bytes == gpu.memory_high_bytes == 51 * 10**9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sms = ", "is not TOML"),
        ('like = "RTX 4090"\nsmss = 3', "no card has 'smss'; is it sms\\?"),
        ('like = "RTX 4090"\nsms = 0', "sms is a whole number from 1 to 4096, not 0"),
        ('like = "RTX 4090"\nsms = true', "sms is a whole number"),
        ('like = "RTX 4090"\nmemory_bytes = "24 GiB"', "memory_bytes is a whole number"),
        ('like = "RTX 4090"\ncapability = 8.9', "capability is one of 7.0, .* in quotes, not 8.9"),
        ('like = "RTX 4090"\ncapability = "3.5"', "capability is one of"),
        ('like = "RTX 4090"\necc = 1', "ecc is true or false"),
        ('like = "RTX 4090"\ndevice_name = ""', "device_name is a text"),
        ('like = "RTX 4090"\nmemory_low_bytes = 30_000_000_000', "does not lie between"),
        ('like = "banana"', "unknown GPU 'banana'"),
        ("like = 3", "words in quotes"),
        (WHOLE.replace("sms = 30", ""), "sms is missing; state it"),
        ("#" * 70_000, "longer than 65536 bytes"),
    ],
)
def test_a_card_that_is_none_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProfilerError, match=message) as error:
        find_gpu(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProfilerError, match=r"none\.toml cannot be read: No such file"):
        find_gpu(str(tmp_path / "none.toml"))
