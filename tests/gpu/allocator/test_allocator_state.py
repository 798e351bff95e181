"""An allocator restored from its segments goes on like the original."""

import pytest

from profiler.gpu.allocator import CachingAllocator
from tests.support.allocators import GIB, MIB, make

pytestmark = pytest.mark.quick


def worked(conf: str = "") -> CachingAllocator:
    """An allocator with blocks of every state in both pools and on two streams."""
    allocator = make(8 * GIB, conf)
    blocks = [
        allocator.malloc(size, stream) for stream in (0, 5) for size in (3 * MIB, 700, 30 * MIB, 9 * MIB)
    ]
    allocator.free(blocks[0])
    allocator.free(blocks[6])
    allocator.record_stream(blocks[3], stream=5)
    allocator.free(blocks[3])
    return allocator


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_restored_segments_behave_like_the_original(conf: str) -> None:
    original, copy = worked(conf), make(8 * GIB, conf)
    copy.restore(original.segments())
    assert copy.segments() == original.segments()
    current = {name: value for name, value in original.memory_stats().items() if name.endswith(".current")}
    assert {name: copy.memory_stats()[name] for name in current} == current
    for allocator in (original, copy):
        allocator.process_events()
        for size in (2 * MIB, 512, 8 * MIB):
            allocator.malloc(size)
    assert copy.segments() == original.segments()
    with pytest.raises(ValueError, match="without segments"):
        copy.restore(original.segments())
