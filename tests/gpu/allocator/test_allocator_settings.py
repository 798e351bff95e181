"""PYTORCH_CUDA_ALLOC_CONF, read and refused as PyTorch does."""

from collections.abc import Callable

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.allocator import AllocatorSettings

pytestmark = pytest.mark.quick

MIB = 1024**2


def test_settings_are_parsed() -> None:
    settings = AllocatorSettings.parse(
        " expandable_segments:True, max_split_size_mb : 128,garbage_collection_threshold:0.8,"
        "max_non_split_rounding_mb:64,roundup_power2_divisions:[256:1,512:2,>:8],large_segment_size_mb:32,"
    )
    assert settings == AllocatorSettings(
        max_split_size_bytes=128 * MIB,
        garbage_collection_threshold=0.8,
        # up to 256 MiB (2^8): 1, 512 MiB: 2, beyond: 8
        roundup_power2_divisions=(1,) * 9 + (2,) + (8,) * 6,
        large_segment_size_bytes=32 * MIB,
        max_non_split_rounding_bytes=64 * MIB,
        expandable_segments=True,
    )
    assert AllocatorSettings.parse("") == AllocatorSettings()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_split:1", "unknown allocator option 'max_split'"),
        ("max_split_size_mb", "expected key:value"),
        ("max_split_size_mb:", "expected key:value"),
        ("max_split_size_mb:x", "whole number of MiB, got 'x'"),
        ("backend:cudaMallocAsync", "not modelled"),
        ("roundup_power2_divisions:[256:2", "unbalanced brackets"),
        ("garbage_collection_threshold:many", "must be a number"),
        ("expandable_segments:true", "must be True or False, got 'true'"),
    ],
)
def test_bad_settings_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ProfilerError, match=complaint.replace("[", r"\[")):
        AllocatorSettings.parse(text)


def _accepts(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except (ProfilerError, ValueError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        "max_split_size_mb:19",
        "max_split_size_mb:20",
        "large_segment_size_mb:40,max_split_size_mb:30",
        "max_split_size_mb:30,large_segment_size_mb:40",
        "max_split_size_mb:40,large_segment_size_mb:40",
        "large_segment_size_mb:10",
        "large_segment_size_mb:11",
        "max_non_split_rounding_mb:19",
        "max_non_split_rounding_mb:20",
        "garbage_collection_threshold:0",
        "garbage_collection_threshold:0.5",
        "garbage_collection_threshold:1.0",
        "roundup_power2_divisions:0",
        "roundup_power2_divisions:1",
        "roundup_power2_divisions:3",
        "roundup_power2_divisions:16",
        "roundup_power2_divisions:[256:3]",
        "roundup_power2_divisions:[100:2]",
        "roundup_power2_divisions:[256:0,>:2]",
        "expandable_segments:False",
    ],
)
def test_the_same_values_are_refused_as_by_pytorch(text: str) -> None:
    torch = pytest.importorskip("torch")
    parse = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if parse is None:
        pytest.skip("this version of PyTorch does not expose its parser")
    parse("large_segment_size_mb:20")  # PyTorch keeps the last value otherwise
    try:
        assert _accepts(AllocatorSettings.parse, text) == _accepts(parse, text)
    finally:
        parse("large_segment_size_mb:20,expandable_segments:False")
