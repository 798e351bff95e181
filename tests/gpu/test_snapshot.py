"""Loading snapshots: what is read, and that damaged or hostile files give one clear error."""

import gzip
import io
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.gpu.allocator import AllocatorSettings, BlockInfo, SegmentInfo
from profiler.gpu.snapshot import Frame, SnapshotError, TraceEvent, _unpickle, load_snapshot, parse_snapshot

pytestmark = pytest.mark.quick

MIB = 1024**2


def block(address: int, size: int, state: str = "inactive", requested: int = 0) -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": requested, "state": state, "frames": []}


def snapshot() -> dict[str, Any]:
    """Two devices: a segment and two events on the first, one segment and no trace on the second."""
    frames = [{"filename": "train.py", "line": 7, "name": "main"}]
    return {
        "segments": [
            {
                "device": 0,
                "address": 4096,
                "total_size": 2 * MIB,
                "stream": 0,
                "segment_type": "small",
                "segment_pool_id": (0, 0),
                "is_expandable": False,
                "blocks": [block(4096, 1024, "active_allocated", 700), block(5120, 2 * MIB - 1024)],
            },
            {
                "device": 1,
                "address": 1 << 40,
                "total_size": 20 * MIB,
                "stream": 5,
                "segment_type": "large",
                "is_expandable": True,
                "blocks": [block(1 << 40, 20 * MIB, "active_pending_free", 20 * MIB)],
            },
        ],
        "device_traces": [
            [
                {"action": "segment_alloc", "addr": 4096, "size": 2 * MIB, "stream": 0, "frames": frames},
                {"action": "alloc", "addr": 4096, "size": 700, "stream": 0, "time_us": 12, "frames": frames},
                {"action": "oom", "device_free": 99, "size": 1 << 30, "stream": 0, "time_us": 13},
            ],
            [],
        ],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"},
    }


def test_segments_and_events_are_read() -> None:
    loaded = parse_snapshot(snapshot())
    first, second = loaded.devices
    frames = (Frame("train.py", 7, "main"),)
    blocks = (BlockInfo(4096, 1024, 700, "active_allocated"), BlockInfo(5120, 2 * MIB - 1024, 0, "inactive"))
    assert first.segments == (SegmentInfo(4096, 2 * MIB, 0, "small", False, blocks),)
    assert first.events == (
        TraceEvent("segment_alloc", 4096, 2 * MIB, 0, 0, frames),
        TraceEvent("alloc", 4096, 700, 0, 12, frames),
        TraceEvent("oom", 99, 1 << 30, 0, 13, ()),
    )
    assert (first.allocated_bytes, first.reserved_bytes) == (1024, 2 * MIB)
    assert (second.device, second.events, second.private_pools) == (1, (), False)
    assert second.segments[0].is_expandable
    assert second.segments[0].blocks[0].state == "active_awaiting_free"
    assert (second.allocated_bytes, second.reserved_bytes) == (0, 20 * MIB)
    assert loaded.settings == AllocatorSettings(max_split_size_bytes=64 * MIB)


def test_old_versions_leave_keys_out() -> None:
    data = {
        "segments": [
            {
                "address": 4096,
                "total_size": 2 * MIB,
                "blocks": [
                    {"size": 512, "state": "active_allocated"},
                    {"size": 2 * MIB - 512, "state": "inactive"},
                ],
            }
        ]
    }
    (device,) = parse_snapshot(data).devices
    blocks = (BlockInfo(4096, 512, 512, "active_allocated"), BlockInfo(4608, 2 * MIB - 512, 0, "inactive"))
    assert device.segments == (SegmentInfo(4096, 2 * MIB, 0, "large", False, blocks),)
    assert device.events == ()


def test_an_empty_snapshot_has_no_devices() -> None:
    assert parse_snapshot({"segments": [], "device_traces": []}).devices == ()


@pytest.mark.parametrize("pool_key", ["segment", "event"])
def test_private_pools_are_noticed(pool_key: str) -> None:
    data = snapshot()
    if pool_key == "segment":
        data["segments"][0]["segment_pool_id"] = (0, 1)
    else:
        data["device_traces"][0][1]["pool_id"] = (1, 0)
    assert [device.private_pools for device in parse_snapshot(data).devices] == [True, False]


@pytest.mark.parametrize(
    ("name", "compress"), [("a.pickle", bytes), ("a.pickle.gz", gzip.compress), ("a.bin", lzma.compress)]
)
def test_files_may_be_compressed_whatever_their_name(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(compress(pickle.dumps(snapshot())))
    assert load_snapshot(path) == parse_snapshot(snapshot())


# ---------------------------------------------------------------------- files that are none


class _Exploit:
    """What an attacker's pickle holds: a call of any function when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (io.open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, protocol: int) -> None:
    victim, path = tmp_path / "victim", tmp_path / "snapshot.pickle"
    data = snapshot() | {"external_annotations": [_Exploit(victim)]}
    path.write_bytes(pickle.dumps(data, protocol))
    with pytest.raises(SnapshotError, match=r"refused: the pickle asks for _?io\.open") as caught:
        load_snapshot(path)
    assert not victim.exists()
    assert "\n" not in str(caught.value)


def test_even_harmless_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(snapshot() | {"device": BlockInfo(0, 1, 1, "inactive")}))
    with pytest.raises(SnapshotError, match="refused"):
        load_snapshot(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a pickle, or truncated"),
        (b"hello", "not a pickle, or truncated"),
        (b"\x1f\x8bhello", "not a pickle, or truncated"),
        (b"\xfd7zXZ\x00hello", "not a pickle, or truncated"),
        (pickle.dumps(snapshot())[:-40], "not a pickle, or truncated"),
        (gzip.compress(pickle.dumps(snapshot()), mtime=0)[:-40], "not a pickle, or truncated"),
        (pickle.dumps([1, 2, 3]), "not a memory snapshot"),
        (pickle.dumps({"model": 1}), "not a memory snapshot"),
        (pickle.dumps({"segments": 3}), "'segments' is not a list but int"),
        (pickle.dumps({"segments": [3]}), "expected a dict with 'device', found int"),
        (pickle.dumps({"segments": [], "device_traces": [3]}), r"device_traces\[0\] is not a list"),
        (pickle.dumps({"segments": [], "device_traces": [[{}]]}), "'action' is missing"),
    ],
)
def test_other_files_give_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=reason) as caught:
        load_snapshot(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="No such file"):
        load_snapshot(tmp_path / "none.pickle")


def _set(*keys: str | int, value: Any) -> dict[str, Any]:
    data: Any = snapshot()
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_set("segments", 0, "address", value="4096"), "'address' is not an integer but str"),
        (_set("segments", 0, "address", value=True), "'address' is not an integer but bool"),
        (_set("segments", 0, "address", value=-1), "'address' is negative"),
        (_set("segments", 0, "device", value=10**12), "too many"),
        (_set("segments", 0, "segment_pool_id", value=3), "'segment_pool_id' is not a list but int"),
        (_set("segments", 0, "total_size", value=MIB), "do not tile it"),
        (_set("segments", 0, "blocks", 1, "address", value=6000), "do not tile it"),
        (_set("segments", 0, "blocks", 1, "state", value="lost"), "unknown block state 'lost'"),
        (_set("segments", 0, "segment_type", value="huge"), "unknown segment type 'huge'"),
        (_set("device_traces", 0, 1, "action", value=7), "'action' is not a string but int"),
        (_set("device_traces", 0, 1, "size", value=None), "'size' is not an integer but NoneType"),
        (
            _set("allocator_settings", "PYTORCH_CUDA_ALLOC_CONF", value="backend:cudaMallocAsync"),
            "recorded with allocator settings: backend:cudaMallocAsync is not modelled",
        ),
    ],
)
def test_wrong_fields_are_named(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(SnapshotError, match=reason):
        parse_snapshot(data)


@pytest.mark.parametrize("at", [1, 40, 99])
@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("size", None, "'size' is not an integer but NoneType"),
        ("size", True, "'size' is not an integer but bool"),
        ("size", "alloc", "'size' is not an integer but str"),
        ("size", -1, "'size' is negative"),
        ("size", 1 << 62, "a size of 4.6e\\+18 bytes"),
        ("addr", 1 << 64, "'addr' is absurd"),
        ("action", 7, "'action' is not a string but int"),
        ("action", None, "'action' is not a string but NoneType"),
        ("frames", 3, "'frames' is not a list but int"),
        ("frames", [3], "expected a dict"),
        ("pool_id", (0, "x"), "'pool_id' has a part that is not an integer"),
    ],
)
def test_wrong_fields_among_many_events_are_named_too(
    tmp_path: Path, at: int, key: str, value: Any, reason: str
) -> None:
    about = {"action": "alloc", "addr": 4096, "size": 512, "stream": 0, "frames": [], "pool_id": (0, 0)}
    events: list[dict[str, Any]] = [dict(about) for _ in range(100)]
    events[at][key] = value
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [events]}, 4))
    with pytest.raises(SnapshotError, match=reason):
        load_snapshot(path)


def test_a_file_cut_anywhere_gives_one_error() -> None:
    content = pickle.dumps(snapshot())
    with_cuts = (content[:length] for length in range(0, len(content), 7))
    for cut in with_cuts:
        with pytest.raises(SnapshotError, match="not a pickle, or truncated"):
            parse_snapshot(_unpickle(cut))


_KEYS = [
    "segments",
    "device_traces",
    "allocator_settings",
    "PYTORCH_CUDA_ALLOC_CONF",
    "action",
    "addr",
    "size",
]
_KEYS += ["address", "total_size", "blocks", "state", "frames", "device", "segment_pool_id", "line"]
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(_KEYS), st.binary()
)
_DATA = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.sampled_from(_KEYS), inner)),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(_DATA, _DATA, _DATA)
def test_data_of_any_shape_is_read_or_refused(segments: object, traces: object, settings_: object) -> None:
    data = {"segments": segments, "device_traces": traces, "allocator_settings": settings_}
    try:
        parse_snapshot(data)
    except SnapshotError:
        return  # any other exception fails the test
