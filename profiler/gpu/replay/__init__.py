"""Replay a recorded CUDA memory trace through the allocator model and compare every address and segment.

Only the sizes, streams and frees of the trace go in. What must come out is the address of each block and
each segment taken from or returned to the driver. A recording seldom starts with an empty device: the state
at its start is found by running the trace backwards from the recorded final state.
"""

from profiler.gpu.replay.forward import replay, replay_device
from profiler.gpu.replay.initial_state import TraceContradiction, initial_segments
from profiler.gpu.replay.result import ReplayResult, Timeline, summary

__all__ = [
    "ReplayResult",
    "Timeline",
    "TraceContradiction",
    "initial_segments",
    "replay",
    "replay_device",
    "summary",
]
