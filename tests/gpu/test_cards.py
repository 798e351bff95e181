"""The table of GPUs and its lookup."""

from pathlib import Path

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU, GPUS, find_gpu
from profiler.gpu.device_used import in_total, process_terms
from profiler.units import GIB, MIB

pytestmark = pytest.mark.quick

# What NVIDIA's data sheets say of each card: GB on the box, multiprocessors, bandwidth in GB/s.
DATA_SHEETS = {
    "V100-16GB": (16, 80, (7, 0), 900),
    "V100-32GB": (32, 80, (7, 0), 900),
    "V100-PCIe-32GB": (32, 80, (7, 0), 900),
    "T4-16GB": (16, 40, (7, 5), 320),
    "RTX-2080-Ti": (11, 68, (7, 5), 616),
    "RTX-3060-12GB": (12, 28, (8, 6), 360),
    "RTX-3070-8GB": (8, 46, (8, 6), 448),
    "RTX-3080-10GB": (10, 68, (8, 6), 760),
    "RTX-3090": (24, 82, (8, 6), 936),
    "RTX-3090-Ti": (24, 84, (8, 6), 1008),
    "A10-24GB": (24, 72, (8, 6), 600),
    "A10G-24GB": (24, 80, (8, 6), 600),
    "A30-24GB": (24, 56, (8, 0), 933),
    "A40-48GB": (48, 84, (8, 6), 696),
    "RTX-A5000-24GB": (24, 64, (8, 6), 768),
    "RTX-A6000-48GB": (48, 84, (8, 6), 768),
    "A100-40GB": (40, 108, (8, 0), 1555),
    "A100-PCIe-40GB": (40, 108, (8, 0), 1555),
    "A100-80GB": (80, 108, (8, 0), 2039),
    "A100-PCIe-80GB": (80, 108, (8, 0), 1935),
    "L4-24GB": (24, 58, (8, 9), 300),
    "L40S-48GB": (48, 142, (8, 9), 864),
    "RTX-4060-8GB": (8, 24, (8, 9), 272),
    "RTX-4080-SUPER": (16, 80, (8, 9), 736),
    "RTX-4090": (24, 128, (8, 9), 1008),
    "RTX-6000-Ada-48GB": (48, 142, (8, 9), 960),
    "H100-80GB": (80, 132, (9, 0), 3350),
    "H100-PCIe-80GB": (80, 114, (9, 0), 2000),
    "H100-NVL-94GB": (94, 132, (9, 0), 3900),
    "GH200-96GB": (96, 132, (9, 0), 4000),
    "H200-141GB": (141, 132, (9, 0), 4800),
    "B200-180GB": (180, 148, (10, 0), 8000),
    "GB200-186GB": (186, 152, (10, 0), 8000),
    "B300-288GB": (288, 148, (10, 3), 8000),
    "RTX-5090": (32, 170, (12, 0), 1792),
    "RTX-PRO-5000-48GB": (48, 110, (12, 0), 1344),
    "RTX-PRO-5000-72GB": (72, 110, (12, 0), 1344),
    "RTX-PRO-6000-96GB": (96, 188, (12, 0), 1792),
    "RTX-PRO-6000-Server-96GB": (96, 188, (12, 0), 1597),
}


@pytest.mark.parametrize("name", DATA_SHEETS)
def test_table(name: str) -> None:
    box_gb, sms, capability, bandwidth_gb = DATA_SHEETS[name]
    gpu = GPUS[name]
    assert (gpu.sms, gpu.capability) == (sms, capability)
    # A card never reports more than the GiB on its box, and at least 90 % of them.
    assert 0.9 * box_gb * GIB <= gpu.memory_low_bytes <= gpu.memory_bytes <= gpu.memory_high_bytes
    assert gpu.memory_high_bytes < gpu.nvml_total_bytes <= box_gb * GIB
    assert gpu.nvml_total_bytes % MIB == 0
    # Two transfers a clock, a bus of so many bits.
    assert 2 * gpu.memory_clock_khz * gpu.memory_bus_bits / 8e6 == pytest.approx(bandwidth_gb, rel=0.03)
    assert gpu.source


def test_table_has_no_other_card() -> None:
    assert set(GPUS) == set(DATA_SHEETS)
    assert all(name == gpu.name for name, gpu in GPUS.items())
    assert len({gpu.device_name for gpu in GPUS.values()}) == len(GPUS)


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        # "GPU 0 has a total capacity of ..." in published out-of-memory messages.
        ("T4-16GB", "14.56"),
        ("T4-16GB", "14.74"),
        ("A100-40GB", "39.49"),
        ("A100-80GB", "79.15"),
        ("RTX-4090", "23.52"),
        ("RTX-5090", "31.34"),
        ("RTX-5090", "31.36"),
        ("RTX-6000-Ada-48GB", "47.41"),
        ("H100-80GB", "79.19"),
        ("H200-141GB", "139.80"),
        ("B200-180GB", "178.35"),
        ("GB200-186GB", "184.31"),
        ("RTX-PRO-6000-96GB", "94.97"),
    ],
)
def test_published_messages_lie_in_the_range(name: str, gib: str) -> None:
    gpu = GPUS[name]
    assert round(gpu.memory_low_bytes / GIB, 2) <= float(gib) <= round(gpu.memory_high_bytes / GIB, 2)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("A100-80GB", "A100-80GB"),
        ("a100 80gb", "A100-80GB"),
        ("H100", "H100-80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("rtx_5090", "RTX-5090"),
        ("Tesla T4", "T4-16GB"),
        ("rtx pro 6000", "RTX-PRO-6000-96GB"),
        ("4090", "RTX-4090"),
        ("A100 40", "A100-40GB"),
        ("nvidia a100_80gb", "A100-80GB"),
        ("V100 32 GB", "V100-32GB"),
        ("pro 6000", "RTX-PRO-6000-96GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIe-80GB"),
        ("h100 pcie", "H100-PCIe-80GB"),
        ("rtx 6000 ada", "RTX-6000-Ada-48GB"),
        ("gb200", "GB200-186GB"),
        ("3060", "RTX-3060-12GB"),
        ("3090", "RTX-3090"),
        ("GeForce RTX 3090 Ti", "RTX-3090-Ti"),
    ],
)
def test_lookup_by_name(spelling: str, name: str) -> None:
    assert find_gpu(spelling) is GPUS[name]


@pytest.mark.parametrize(
    ("size", "memory_bytes"),
    [
        ("24 GiB", 25769803776),
        ("24GiB", 25769803776),
        ("80 GB", 80_000_000_000),
        ("1.5 gib", 1610612736),
        ("512 MiB", 536870912),
        ("24GB", 24_000_000_000),
        ("0.5TiB", 549755813888),
    ],
)
def test_lookup_by_size(size: str, memory_bytes: int) -> None:
    gpu = find_gpu(size)
    assert isinstance(gpu, GPU)
    assert gpu.memory_bytes == memory_bytes
    assert (gpu.sms, gpu.capability) == (108, (8, 0))


def test_ambiguous_name_lists_the_candidates() -> None:
    with pytest.raises(ProfilerError, match="A100-40GB or A100-80GB"):
        find_gpu("a100")


def test_unknown_name_lists_close_and_all_names() -> None:
    with pytest.raises(ProfilerError, match=r"close: .*RTX-4090") as error:
        find_gpu("RTX-4091")
    assert all(name in str(error.value) for name in GPUS)


@pytest.mark.parametrize("name", ["", "banana", "24", "48", "-3 GiB", "NVIDIA"])
def test_nonsense_is_refused(name: str) -> None:
    with pytest.raises(ProfilerError, match="unknown GPU"):
        find_gpu(name)


def test_zero_bytes_are_refused() -> None:
    with pytest.raises(ProfilerError, match="0 bytes"):
        find_gpu("0 GiB")


def test_the_page_of_the_gpus_has_every_card_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gpus.md").read_text()
    for gpu in GPUS.values():
        outside = in_total(process_terms(gpu))
        row = next(line for line in page.splitlines() if line.startswith(f"| {gpu.name} |"))
        assert f"| {gpu.sms} | {'' if gpu.memory_is_exact else '~ '}{gpu.memory_bytes:,} |" in row
        assert f"| {outside.typical_bytes / MIB:.0f} (" in row
    assert page.count("\n| ") == len(GPUS) + 1
