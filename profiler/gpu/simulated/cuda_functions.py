"""What `torch.cuda` has functions for, answered for a simulated GPU with one stream."""

import pickle
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from profiler.gpu.allocator import CachingAllocator
from profiler.gpu.capability import REGISTERS_PER_SM, SHARED_PER_BLOCK_BYTES, WARP_THREADS
from profiler.gpu.cards import GPU
from profiler.gpu.simulated.cuda_translation import CUDA


class Stream:
    """The one stream of the device."""

    cuda_stream = stream_id = device_index = 0
    device = CUDA

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def synchronize(self) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Any = None) -> "Event":
        return event or Event()

    def query(self) -> bool:
        return True

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None: ...


class Event:
    """Tells the time of the host: what a simulated GPU does takes none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._seconds = 0.0

    def record(self, stream: Any = None) -> None:
        self._seconds = time.perf_counter()

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "Event") -> float:
        return max(1e3 * (end._seconds - self._seconds), 1e-3)


def memory_functions(allocator: CachingAllocator, gpu: GPU) -> dict[str, Callable[..., Any]]:
    def statistic(name: str) -> Callable[..., int]:
        return lambda device=None: allocator.memory_stats()[name]

    def limit(fraction: float, device: Any = None) -> None:
        """A share of the whole card; what the process has beside the allocator's is not of it."""
        usable_bytes = allocator.driver.capacity_bytes
        of_usable = fraction * gpu.memory_bytes / max(usable_bytes, 1)
        allocator.driver.allow(min(of_usable, 1.0) if fraction <= 1.0 else fraction)

    def snapshot(device: Any = None, **options: Any) -> dict[str, Any]:
        """The segments, without a history: profiler's own files have that."""
        return {"segments": _segments(allocator), "device_traces": [[]]}

    def dump(filename: str = "dump_snapshot.pickle", **options: Any) -> None:
        with open(filename, "wb") as file:
            pickle.dump(snapshot(), file)

    return {
        "memory_allocated": statistic("allocated_bytes.all.current"),
        "max_memory_allocated": statistic("allocated_bytes.all.peak"),
        "memory_reserved": statistic("reserved_bytes.all.current"),
        "max_memory_reserved": statistic("reserved_bytes.all.peak"),
        "memory_stats": lambda device=None: allocator.memory_stats(),
        "reset_peak_memory_stats": lambda device=None: allocator.reset_peak_memory_stats(),
        "empty_cache": allocator.empty_cache,
        "reset_accumulated_memory_stats": lambda device=None: None,
        "set_per_process_memory_fraction": limit,
        "_record_memory_history": lambda *args, **kwargs: None,
        "_snapshot": snapshot,
        "memory_snapshot": lambda mempool_id=None, **options: snapshot()["segments"],
        "_dump_snapshot": dump,
        "mem_get_info": lambda device=None: (gpu.memory_bytes - allocator.reserved_bytes, gpu.memory_bytes),
    }


def _segments(allocator: CachingAllocator) -> list[dict[str, Any]]:
    """As torch.cuda.memory._snapshot has them."""
    return [
        {
            "device": 0,
            "address": segment.address,
            "total_size": segment.total_size_bytes,
            "stream": 0,
            "blocks": [
                {
                    "address": block.address,
                    "size": block.size_bytes,
                    "requested_size": block.requested_bytes,
                    "state": block.state,
                    "frames": [],
                }
                for block in segment.blocks
            ],
        }
        for segment in allocator.segments()
    ]


def device_functions(gpu: GPU) -> dict[str, Any]:
    properties = SimpleNamespace(
        name=gpu.device_name,
        major=gpu.capability[0],
        minor=gpu.capability[1],
        total_memory=gpu.memory_bytes,
        multi_processor_count=gpu.sms,
        max_threads_per_multi_processor=gpu.max_threads_per_sm,
        shared_memory_per_block=SHARED_PER_BLOCK_BYTES,
        shared_memory_per_block_optin=gpu.limits.shared_per_block_optin_bytes,
        shared_memory_per_multiprocessor=gpu.limits.shared_per_sm_bytes,
        regs_per_multiprocessor=REGISTERS_PER_SM,
        warp_size=WARP_THREADS,
        L2_cache_size=gpu.l2_cache_bytes,
        memory_bus_width=gpu.memory_bus_bits,
        memory_clock_rate=gpu.memory_clock_khz,
        clock_rate=gpu.clock_khz,
        is_integrated=False,
        is_multi_gpu_board=False,
    )

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    def host_rng_state(*args: Any) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)  # seed and offset, on the host

    stream = Stream()
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": nothing,
        "_lazy_init": nothing,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": nothing,
        "_exchange_device": lambda index: 0,
        "_maybe_exchange_device": lambda index: 0,
        "get_device_name": lambda device=None: gpu.device_name,
        "get_device_capability": lambda device=None: gpu.capability,
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: including_emulation or gpu.capability >= (8, 0),
        "is_current_stream_capturing": lambda: False,
        "synchronize": nothing,
        "ipc_collect": nothing,
        "manual_seed": nothing,
        "manual_seed_all": nothing,
        "get_rng_state": host_rng_state,
        "set_rng_state": nothing,
        "get_rng_state_all": lambda: [host_rng_state()],
        "set_rng_state_all": nothing,
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "stream": lambda stream: stream or Stream(),
        "cudart": lambda: SimpleNamespace(cudaProfilerStart=lambda: 0, cudaProfilerStop=lambda: 0),
        "Stream": Stream,
        "Event": Event,
    }
