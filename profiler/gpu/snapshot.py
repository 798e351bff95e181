"""Load memory snapshots of `torch.cuda.memory._dump_snapshot`, safely: no pickle may run code here."""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from profiler.errors import ProfilerError, first_line
from profiler.gpu.allocator import AllocatorSettings, BlockInfo, SegmentInfo

_BLOCK_STATES = ("active_allocated", "active_awaiting_free", "inactive")
# Old versions: "active_pending_free" was the earlier name.
_RENAMED_STATES = {"active_pending_free": "active_awaiting_free"}
_DEFAULT_POOL = (0, 0)
_MAX_DEVICES = 1024


class SnapshotError(ProfilerError):
    """The file is no CUDA memory snapshot, or is damaged, or asks to run code. The message is one line."""


class Frame(NamedTuple):
    """One line of a Python or C++ stack."""

    filename: str
    line: int
    name: str


class TraceEvent(NamedTuple):
    """One recorded act of the allocator.

    `action` is alloc, free_requested, free_completed, segment_alloc, segment_free, segment_map,
    segment_unmap, snapshot or oom. `size_bytes` is the requested size of allocations and frees, the real one
    of segments. For oom, `address` holds the bytes that the device still had free. `time_us` is 0 where the
    version of PyTorch did not record it. `frames` has the innermost call first.
    """

    action: str
    address: int
    size_bytes: int
    stream: int
    time_us: int
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class DeviceSnapshot:
    """The final state of one device's allocator and the recorded events that led to it, oldest first.

    The record holds only the last events of a run if its buffer was smaller than the run.
    `private_pools`: some memory belongs to CUDA graphs or to a `torch.cuda.MemPool`.
    """

    device: int
    segments: tuple[SegmentInfo, ...]
    events: tuple[TraceEvent, ...]
    private_pools: bool

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the blocks in use when the snapshot was taken."""
        blocks = (block for segment in self.segments for block in segment.blocks)
        return sum(block.size_bytes for block in blocks if block.state == "active_allocated")

    @property
    def reserved_bytes(self) -> int:
        """Bytes held from the driver when the snapshot was taken."""
        return sum(segment.total_size_bytes for segment in self.segments)


@dataclass(frozen=True)
class Snapshot:
    """A loaded snapshot: one entry per device that it knows, and the settings of the allocator."""

    devices: tuple[DeviceSnapshot, ...]
    settings: AllocatorSettings


class _DataUnpickler(pickle.Unpickler):
    """Builds containers and scalars only: every class or function in a pickle goes through find_class."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise SnapshotError(
            f"refused: the pickle asks for {module_name}.{global_name}, a snapshot needs no code"
        )


def load_snapshot(path: str | Path) -> Snapshot:
    """Load a snapshot file: a pickle, plain or compressed with gzip or xz.

    Raises SnapshotError, with the path and one line of reason, for anything else.
    """
    try:
        return parse_snapshot(_unpickle(Path(path).read_bytes()))
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from None
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror or error}") from None


def parse_snapshot(data: object) -> Snapshot:
    """Check plain data as `torch.cuda.memory._snapshot()` returns it and give the typed view.

    Raises SnapshotError if it is not of that form.
    """
    if not isinstance(data, Mapping) or "segments" not in data:
        raise SnapshotError("not a memory snapshot: it must be a dict with 'segments' and 'device_traces'")
    raw_segments = _list(data, "segments")
    raw_traces = _list(data, "device_traces")
    by_device: dict[int, list[tuple[SegmentInfo, bool]]] = {}
    for raw in raw_segments:
        device = _integer(raw, "device", 0)
        if device >= _MAX_DEVICES:
            raise SnapshotError(f"not a memory snapshot: device {device} is too many")
        by_device.setdefault(device, []).append(_segment(raw))
    stacks: dict[tuple[int, ...], tuple[Frame, ...]] = {}
    devices = []
    for device in range(max(len(raw_traces), max(by_device, default=-1) + 1)):
        raw_events = raw_traces[device] if device < len(raw_traces) else []
        if not isinstance(raw_events, list | tuple):
            raise SnapshotError(f"device_traces[{device}] is not a list")
        segments = by_device.get(device, [])
        pools = {_pool_id(raw) for raw in raw_events}
        devices.append(
            DeviceSnapshot(
                device=device,
                segments=tuple(sorted((each for each, _ in segments), key=lambda segment: segment.address)),
                events=tuple([_event(raw, stacks) for raw in raw_events]),
                private_pools=any(private for _, private in segments) or bool(pools - {_DEFAULT_POOL}),
            )
        )
    return Snapshot(tuple(devices), _settings(data))


def _unpickle(content: bytes) -> object:
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        elif content.startswith(b"\xfd7zXZ\x00"):
            content = lzma.decompress(content)
        return _DataUnpickler(io.BytesIO(content)).load()
    except SnapshotError:
        raise
    except Exception as error:  # a damaged or hostile file can fail in any way
        raise SnapshotError(
            f"not a pickle, or truncated ({type(error).__name__}: {first_line(error)})"
        ) from None


def _segment(raw: object) -> tuple[SegmentInfo, bool]:
    """The segment, and whether it belongs to a private pool."""
    address, total_size_bytes = _integer(raw, "address"), _integer(raw, "total_size")
    blocks, end = [], address
    for raw_block in _list(raw, "blocks"):
        size_bytes = _integer(raw_block, "size")
        state = _text(raw_block, "state")
        state = _RENAMED_STATES.get(state, state)
        if state not in _BLOCK_STATES:
            raise SnapshotError(f"unknown block state {state!r}")
        # Old versions give no address and no requested size; blocks tile the segment in any version.
        start = _integer(raw_block, "address", end)
        requested_bytes = _integer(raw_block, "requested_size", size_bytes)
        blocks.append(BlockInfo(start, size_bytes, 0 if state == "inactive" else requested_bytes, state))
        if start != end:
            raise SnapshotError(f"the blocks of segment {address:#x} do not tile it")
        end += size_bytes
    if end != address + total_size_bytes:
        raise SnapshotError(f"the blocks of segment {address:#x} do not tile it")
    segment = SegmentInfo(
        address=address,
        total_size_bytes=total_size_bytes,
        stream=_integer(raw, "stream", 0),
        segment_type=_text(raw, "segment_type", "large"),
        is_expandable=bool(_field(raw, "is_expandable", False)),
        blocks=tuple(blocks),
    )
    if segment.segment_type not in ("small", "large"):
        raise SnapshotError(f"unknown segment type {segment.segment_type!r}")
    return segment, _pool_id(raw, "segment_pool_id") != _DEFAULT_POOL


def _event(raw: object, stacks: dict[tuple[int, ...], tuple[Frame, ...]]) -> TraceEvent:
    action = _text(raw, "action")
    raw_frames = _list(raw, "frames")
    # The same few stacks return many thousand times, and a pickle shares their lines: build each once.
    identity = tuple(map(id, raw_frames))
    frames = stacks.get(identity)
    if frames is None:
        frames = stacks[identity] = tuple([_frame(each) for each in raw_frames])
    return TraceEvent(
        action,
        _integer(raw, "device_free" if action == "oom" else "addr", 0 if action == "snapshot" else None),
        _integer(raw, "size"),
        _integer(raw, "stream", 0),
        _integer(raw, "time_us", 0),
        frames,
    )


def _frame(raw: object) -> Frame:
    return Frame(_text(raw, "filename", ""), _integer(raw, "line", 0), _text(raw, "name", ""))


def _settings(data: Mapping[str, Any]) -> AllocatorSettings:
    raw = data.get("allocator_settings")
    text = _text(raw, "PYTORCH_CUDA_ALLOC_CONF", "") if isinstance(raw, Mapping) else ""
    try:
        return AllocatorSettings.parse(text)
    except ValueError as error:
        raise SnapshotError(f"recorded with allocator settings that cannot be read: {error}") from None


def _pool_id(raw: object, key: str = "pool_id") -> tuple[int, ...]:
    return tuple(_list(raw, key)) or _DEFAULT_POOL


_REQUIRED: Any = object()


def _field(raw: object, key: str, default: Any = _REQUIRED) -> Any:
    if not isinstance(raw, Mapping):
        raise SnapshotError(
            f"not a memory snapshot: expected a dict with {key!r}, found {type(raw).__name__}"
        )
    value = raw.get(key, default)
    if value is _REQUIRED:
        raise SnapshotError(f"not a memory snapshot: {key!r} is missing")
    return value


def _integer(raw: object, key: str, default: int | None = None) -> int:
    value = _field(raw, key, _REQUIRED if default is None else default)
    if type(value) is not int:
        raise SnapshotError(f"not a memory snapshot: {key!r} is not an integer but {type(value).__name__}")
    if value < 0:
        raise SnapshotError(f"not a memory snapshot: {key!r} is negative")
    return value


def _text(raw: object, key: str, default: str | None = None) -> str:
    value = _field(raw, key, _REQUIRED if default is None else default)
    if not isinstance(value, str):
        raise SnapshotError(f"not a memory snapshot: {key!r} is not a string but {type(value).__name__}")
    return value


def _list(raw: object, key: str) -> Sequence[Any]:
    value = _field(raw, key, ())
    if not isinstance(value, list | tuple):
        raise SnapshotError(f"not a memory snapshot: {key!r} is not a list but {type(value).__name__}")
    return value
