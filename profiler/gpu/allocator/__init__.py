"""A model of PyTorch's CUDA caching allocator in pure Python: the same addresses, sizes and statistics.

The rules are those of c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h (PyTorch 2.11 to
2.13), and so are the names. `profiler.gpu.replay` checks them against memory snapshots recorded on real GPUs.

    settings.py             the options of PYTORCH_CUDA_ALLOC_CONF
    blocks.py               a block, and the pools of those that are not in use
    state.py                all that the allocator holds, and the view of it that a snapshot gives
    driver.py               what it takes from the driver and gives back; out of memory
    expandable_segments.py  segments that grow
    caching_allocator.py    the policy: which block serves a request, and what happens where none does
    statistics.py           the counts of torch.cuda.memory_stats

Not modelled: private pools (CUDA graphs, `torch.cuda.MemPool`), several devices (make one allocator each),
and the free-memory callbacks of CUDA IPC.
"""

from profiler.gpu.allocator.blocks import SMALL_SEGMENT_BYTES, SMALL_SIZE_BYTES
from profiler.gpu.allocator.caching_allocator import CachingAllocator
from profiler.gpu.allocator.driver import DeviceOutOfMemory, SegmentEvent
from profiler.gpu.allocator.settings import AllocatorSettings
from profiler.gpu.allocator.state import BlockInfo, SegmentInfo

__all__ = [
    "SMALL_SEGMENT_BYTES",
    "SMALL_SIZE_BYTES",
    "AllocatorSettings",
    "BlockInfo",
    "CachingAllocator",
    "DeviceOutOfMemory",
    "SegmentEvent",
    "SegmentInfo",
]
