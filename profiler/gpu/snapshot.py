"""Load memory snapshots of `torch.cuda.memory._dump_snapshot`, safely: no pickle may run code here."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.gpu.allocator import AllocatorSettings, BlockInfo, SegmentInfo
from profiler.gpu.pickle_rows import References, Rows, list_of
from profiler.gpu.plain_pickle import Forbidden, PlainPickleError, read_plain
from profiler.gpu.snapshot_file import WrongFile, pickle_in
from profiler.gpu.trace_events import Frame, TraceEvent, TraceEvents

if TYPE_CHECKING:
    import numpy as np

_BLOCK_STATES = ("active_allocated", "active_awaiting_free", "inactive")
# Old versions: "active_pending_free" was the earlier name.
_RENAMED_STATES = {"active_pending_free": "active_awaiting_free"}
_DEFAULT_POOL = (0, 0)
_MAX_DEVICES = 1024
_ROWS_JOINED = 100  # parts, of a thousand rows each
_LARGEST_BYTES = 1 << 48  # of one block: 256 TiB


class SnapshotError(ProfilerError):
    """The file is no CUDA memory snapshot, or is damaged, or asks to run code. The message is one line."""


@dataclass(frozen=True)
class DeviceSnapshot:
    """The final state of one device's allocator and the recorded events that led to it, oldest first.

    The record holds only the last events of a run if its buffer was smaller than the run.
    `private_pools`: some memory belongs to CUDA graphs or to a `torch.cuda.MemPool`.
    """

    device: int
    segments: tuple[SegmentInfo, ...]
    events: TraceEvents
    private_pools: bool

    @property
    def out_of_memory(self) -> tuple[tuple[int, TraceEvent], ...]:
        """The requests that failed, each with its index among the events.

        An event has the size asked for, as `address` the free bytes, and the stack.
        """
        failed = self.events.columns().are("oom").nonzero()[0].tolist()
        return tuple((index, self.events[index]) for index in failed)

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

    def device(self, index: int) -> DeviceSnapshot:
        """The device of that number. Raises SnapshotError where there is none."""
        if index >= len(self.devices):
            known = f"0 to {len(self.devices) - 1}" if self.devices else "none"
            raise SnapshotError(f"there is no device {index} in the snapshot; it has {known}")
        return self.devices[index]


def load_snapshot(
    path: str | Path, on_progress: Callable[[int], object] = lambda read_bytes: None
) -> Snapshot:
    """Load a snapshot file: a pickle, plain or compressed (gzip, xz, bz2), or a memory_viz page around one.

    `on_progress` is told now and then how many bytes of the pickle are read.

    Raises SnapshotError, with the path and one line of reason, for anything else.
    """
    try:
        with collecting_no_garbage():
            content = pickle_in(Path(path).read_bytes())
            return parse_snapshot(_unpickle(content, on_progress), most_items=len(content))
    except (SnapshotError, WrongFile) as error:
        raise SnapshotError(f"{path}: {error}") from None
    except MemoryError:
        raise SnapshotError(f"{path}: there is too little memory to read it") from None
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror or error}") from None


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Millions of new objects, none of them garbage: looking for some would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unpickle(content: bytes, on_progress: Callable[[int], object] = lambda read_bytes: None) -> object:
    try:
        return read_plain(content, on_progress)
    except Forbidden as error:
        raise SnapshotError(f"refused: {error}, a snapshot needs no code") from None
    except PlainPickleError as error:
        raise SnapshotError(f"not a pickle, or truncated ({error})") from None


def parse_snapshot(data: object, most_items: int = sys.maxsize) -> Snapshot:
    """Check plain data as `torch.cuda.memory._snapshot()` returns it and give the typed view.

    Args:
        data: the data, whose lists of events may hold `Rows`.
        most_items: how many segments, blocks, events and frames there may be: a pickle may name one list
            many times, and so hold more than its bytes.

    Raises SnapshotError if it is not of that form.
    """
    if isinstance(data, list) and data and isinstance(data[0], Mapping) and "blocks" in data[0]:
        raise SnapshotError("a list of segments, as torch 1 wrote it, without events; record with torch 2")
    if not isinstance(data, Mapping) or "segments" not in data:
        raise SnapshotError("not a memory snapshot: it must be a dict with 'segments' and 'device_traces'")
    raw_segments = _list(data, "segments")
    raw_traces = _list(data, "device_traces")
    items = _Items(most_items)
    items.take(len(raw_segments))
    by_device: dict[int, list[tuple[SegmentInfo, bool]]] = {}
    for raw in raw_segments:
        device = _integer(raw, "device", 0)
        if device >= _MAX_DEVICES:
            raise SnapshotError(f"not a memory snapshot: device {device} is too many")
        by_device.setdefault(device, []).append(_segment(raw, items))
    if len(raw_traces) > _MAX_DEVICES:
        raise SnapshotError(f"not a memory snapshot: {len(raw_traces)} devices are too many")
    reader = _EventReader(items)
    devices = []
    for device in range(max(len(raw_traces), max(by_device, default=-1) + 1)):
        raw_events = raw_traces[device] if device < len(raw_traces) else []
        if not isinstance(raw_events, list | tuple):
            raise SnapshotError(f"device_traces[{device}] is not a list")
        segments = by_device.get(device, [])
        events, private_events = reader.read(raw_events)
        devices.append(
            DeviceSnapshot(
                device=device,
                segments=tuple(sorted((each for each, _ in segments), key=lambda segment: segment.address)),
                events=events,
                private_pools=any(private for _, private in segments) or private_events,
            )
        )
    return Snapshot(tuple(devices), _settings(data))


class _Items:
    """How much of a snapshot there may still be."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise SnapshotError("not a memory snapshot: it names the same lists again and again")


def _segment(raw: object, items: _Items) -> tuple[SegmentInfo, bool]:
    """The segment, and whether it belongs to a private pool."""
    address, total_size_bytes = _integer(raw, "address"), _integer(raw, "total_size")
    blocks, end = [], address
    raw_blocks = _list(raw, "blocks")
    items.take(len(raw_blocks))
    for raw_block in raw_blocks:
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


class _EventReader:
    """Events of a device, from dicts and from rows of them."""

    def __init__(self, items: _Items) -> None:
        self.items = items
        self.stacks: dict[int, tuple[Frame, ...]] = {}  # by identity of the raw list, which the data keeps
        self.same: dict[tuple[Frame, ...], tuple[Frame, ...]] = {}

    def read(self, raw_events: Sequence[Any]) -> tuple[TraceEvents, bool]:
        """The events, and whether any is of a private pool."""
        events, private = TraceEvents(), False
        for raw in _rows_joined(raw_events):
            if type(raw) is Rows:
                self.items.take(raw.length)
                private |= self._add_rows(events, raw)
            else:
                self.items.take(1)
                action = _text(raw, "action")
                address = "device_free" if action == "oom" else "addr"
                numbers = (
                    _integer(raw, address, 0 if action == "snapshot" else None),
                    _integer(raw, "size"),
                    _integer(raw, "stream", 0),
                    _integer(raw, "time_us", 0),
                )
                if numbers[1] > _LARGEST_BYTES:
                    raise SnapshotError(f"not a memory snapshot: a size of {numbers[1]:.1e} bytes")
                events.append(TraceEvent(action, *numbers, self._frames(_list(raw, "frames"))))
                private |= _pool_id(raw) != _DEFAULT_POOL
        return events, private

    def _add_rows(self, events: TraceEvents, rows: Rows) -> bool:
        columns, length = rows.columns, rows.length
        actions, action_at = _different(columns["action"])
        for action in actions:
            _text({"action": action}, "action")
        address = "device_free" if "device_free" in columns else "addr"
        numbers = [_numbers(columns, name, length) for name in (address, "size", "stream", "time_us")]
        if int(numbers[1].max()) > _LARGEST_BYTES:
            raise SnapshotError(f"not a memory snapshot: a size of {int(numbers[1].max()):.1e} bytes")
        stacks, stack_at = _different(columns.get("frames", [()] * length))
        frames = [self._frames(_list({"frames": raw}, "frames")) for raw in stacks]
        events.extend((actions, action_at), numbers, (frames, stack_at))
        pools, _ = _different(columns.get("pool_id", ()))
        return any(_pool_id({"pool_id": raw}) != _DEFAULT_POOL for raw in pools)

    def _frames(self, raw_frames: Sequence[Any]) -> tuple[Frame, ...]:
        """The same few stacks return many thousand times: each is built once, and is one object."""
        frames = self.stacks.get(id(raw_frames))
        if frames is None:
            self.items.take(len(raw_frames))
            made = tuple([_frame(each) for each in raw_frames])
            frames = self.stacks[id(raw_frames)] = self.same.setdefault(made, made)
        return frames


def _rows_joined(raw_events: Sequence[Any]) -> Iterator[Any]:
    """The events, rows that follow one another and have the same keys together."""
    parts: list[Rows] = []
    for raw in chain(raw_events, (_REQUIRED,)):
        if parts and not (type(raw) is Rows and list(raw.columns) == list(parts[0].columns)):
            yield Rows.joined(parts)
            parts = []
        if type(raw) is Rows:
            parts.append(raw)
            if len(parts) == _ROWS_JOINED:
                yield Rows.joined(parts)
                parts = []
        elif raw is not _REQUIRED:
            yield raw


def _different(column: Any) -> tuple[list[Any], np.ndarray]:
    """The different objects of a column, and for each row which of them it has, shape (n,)."""
    import numpy as np

    if isinstance(column, References):
        places, at = np.unique(column.places, return_inverse=True)
        return [column.memo[place] for place in places.tolist()], at
    known = {id(each): index for index, each in enumerate(column)}
    objects = list(column)
    return objects, np.fromiter((known[id(each)] for each in objects), np.int64, len(objects))


def _numbers(columns: Mapping[str, Any], name: str, length: int) -> Any:
    """An array of non-negative int64; 0 where the rows do not have it, but for what every event has."""
    import numpy as np

    if name not in columns:
        if name in ("addr", "size"):
            raise SnapshotError(f"not a memory snapshot: {name!r} is missing")
        return np.zeros(length, np.int64)
    values = columns[name]
    if not isinstance(values, np.ndarray):
        values = np.array([_integer({name: value}, name) for value in list_of(values)], np.int64)
    if len(values) and int(values.min()) < 0:
        raise SnapshotError(f"not a memory snapshot: {name!r} is negative")
    return values


def _frame(raw: object) -> Frame:
    # Lines of C++ may be any 64 bits.
    line = _integer(raw, "line", 0, limit=1 << 64)
    return Frame(_text(raw, "filename", ""), line, _text(raw, "name", ""))


def _settings(data: Mapping[str, Any]) -> AllocatorSettings:
    raw = data.get("allocator_settings")
    text = _text(raw, "PYTORCH_CUDA_ALLOC_CONF", "") if isinstance(raw, Mapping) else ""
    try:
        return AllocatorSettings.parse(text)
    except ProfilerError as error:
        raise SnapshotError(f"recorded with {error}") from None


def _pool_id(raw: object, key: str = "pool_id") -> tuple[int, ...]:
    parts = tuple(_list(raw, key)) or _DEFAULT_POOL
    if any(type(part) is not int for part in parts):
        raise SnapshotError(f"not a memory snapshot: {key!r} has a part that is not an integer")
    return parts


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


def _integer(raw: object, key: str, default: int | None = None, limit: int = 1 << 63) -> int:
    value = _field(raw, key, _REQUIRED if default is None else default)
    if type(value) is not int:
        raise SnapshotError(f"not a memory snapshot: {key!r} is not an integer but {type(value).__name__}")
    if value < 0:
        raise SnapshotError(f"not a memory snapshot: {key!r} is negative")
    if value >= limit:
        raise SnapshotError(f"not a memory snapshot: {key!r} is absurd")
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
