"""The table of GPUs and its lookup."""

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU, GPUS, find_gpu
from profiler.units import GIB


@pytest.mark.parametrize(
    ("name", "box_gb", "sms", "capability"),
    [
        # Multiprocessors and capability: NVIDIA architecture white papers and deviceQuery listings.
        ("V100-16GB", 16, 80, (7, 0)),
        ("V100-32GB", 32, 80, (7, 0)),
        ("T4-16GB", 16, 40, (7, 5)),
        ("A10-24GB", 24, 72, (8, 6)),
        ("A100-40GB", 40, 108, (8, 0)),
        ("A100-80GB", 80, 108, (8, 0)),
        ("L40S-48GB", 48, 142, (8, 9)),
        ("L4-24GB", 24, 58, (8, 9)),
        ("RTX-3090", 24, 82, (8, 6)),
        ("RTX-4090", 24, 128, (8, 9)),
        ("RTX-5090", 32, 170, (12, 0)),
        ("RTX-PRO-6000-96GB", 96, 188, (12, 0)),
        ("H100-80GB", 80, 132, (9, 0)),
        ("H200-141GB", 141, 132, (9, 0)),
        ("B200-180GB", 180, 148, (10, 0)),
    ],
)
def test_table(name: str, box_gb: int, sms: int, capability: tuple[int, int]) -> None:
    gpu = GPUS[name]
    assert (gpu.sms, gpu.capability) == (sms, capability)
    # A card never reports more than the GiB on its box, and at least 90 % of them.
    assert 0.9 * box_gb * GIB <= gpu.memory_bytes <= box_gb * GIB
    assert gpu.source


def test_table_has_no_other_card() -> None:
    assert len(GPUS) == 15
    assert all(name == gpu.name for name, gpu in GPUS.items())


@pytest.mark.parametrize(
    ("capability", "max_threads_per_sm"),
    [
        ((7, 0), 2048),
        ((7, 5), 1024),
        ((8, 0), 2048),
        ((8, 6), 1536),
        ((8, 9), 1536),
        ((9, 0), 2048),
        ((12, 0), 1536),
    ],
)
def test_threads_follow_the_capability(capability: tuple[int, int], max_threads_per_sm: int) -> None:
    # CUDA C++ programming guide, technical specifications per compute capability.
    found = {gpu.max_threads_per_sm for gpu in GPUS.values() if gpu.capability == capability}
    assert found == {max_threads_per_sm}


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
        find_gpu("RTX-4080")
    assert all(name in str(error.value) for name in GPUS)


@pytest.mark.parametrize("name", ["", "banana", "24", "48", "-3 GiB", "NVIDIA"])
def test_nonsense_is_refused(name: str) -> None:
    with pytest.raises(ProfilerError, match="unknown GPU"):
        find_gpu(name)


def test_zero_bytes_are_refused() -> None:
    with pytest.raises(ProfilerError, match="0 bytes"):
        find_gpu("0 GiB")
