"""Files damaged at random, by a seed: a snapshot, a saved run and a file of records."""

import copy
import gzip
import io
import pickle

import pandas as pd
import pyarrow as pa

from profiler.gpu.allocator import CachingAllocator
from profiler.records import table as records
from profiler.trace.events import Allocation, Free, Mark
from profiler.trace.phase import Phase
from tests.support.runs import run_of

KINDS = ("snapshot", "trace", "records")
NASTY = [
    None,
    -1,
    0,
    1,
    511,
    2**31,
    2**62,
    2**63,
    2**64,
    10**400,
    -(10**30),
    1.5,
    float("nan"),
    float("inf"),
    "",
]
NASTY += ["\x00", "a" * 10_000, "<script>alert(1)</script>", "[red]", "[/bold]", b"", [], {}, (), [[]], ([],)]
NASTY += [(0, [1]), True, [None], {"a": 1}, "alloc", "free_completed", "oom", "snapshot", "inactive", "small"]
NASTY += [(1, 2), "\x1b[31m", "日本語"]
ACTIONS = ["alloc", "free_completed", "free_requested", "segment_alloc", "segment_free", "segment_map"]
ACTIONS += ["segment_unmap", "oom", "snapshot", "nonsense"]
WORDS = [
    None,
    "",
    "x",
    "alloc",
    "free",
    "mark",
    "label",
    "parameters",
    "<script>",
    "[red]x",
    "[/bold]",
    "\x00",
]
WORDS += ["a" * 10_000, "日本", "forward", "\x1b[2J", "measured", "formula", "out_of_memory", "skipped", "ok"]
NUMBERS = [None, -1, 0, 1, 2**31, 2**62, -(2**62), 2**63 - 1, 7]


def damaged_bytes(content, random):
    """Some bytes changed, cut off, or put in between."""
    damaged = bytearray(content)
    kind = random.choice(["one", "some", "cut", "insert", "zeros"])
    at = random.randrange(len(damaged))
    if kind in ("one", "some"):
        for _ in range(1 if kind == "one" else 8):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
    elif kind == "cut":
        del damaged[at:]
    elif kind == "insert":
        damaged[at:at] = random.randbytes(random.choice([1, 7, 60]))
    else:
        damaged[at : at + 64] = bytes(len(damaged[at : at + 64]))
    return bytes(damaged)


def damaged_snapshot(data, random):
    """A pickle of a snapshot with wrong values, keys, events or bytes."""
    kind = random.choice(["value", "value", "value", "delete", "action", "number", "number", "bytes", "gzip"])
    if kind in ("bytes", "gzip"):
        content = pickle.dumps(data, protocol=4)
        return damaged_bytes(gzip.compress(content, mtime=0) if kind == "gzip" else content, random)
    data = copy.deepcopy(data)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        events = data["device_traces"][0]
        if kind in ("action", "number"):
            event = events[random.randrange(len(events))]
            if kind == "action":
                event["action"] = random.choice(ACTIONS)
            else:
                sizes = [0, 1, 512, 3, 2**47, 2**63, 2**64 + 1, 10**300, random.choice(events).get("addr", 0)]
                event[random.choice(["addr", "size", "stream", "time_us"])] = random.choice(sizes)
            continue
        found = random.choice(_containers(data))
        if not found:
            continue
        key = random.choice(list(found)) if isinstance(found, dict) else random.randrange(len(found))
        if kind == "value":
            found[key] = copy.deepcopy(random.choice(NASTY))
        else:
            del found[key]
        if not isinstance(data.get("device_traces"), list) or not data["device_traces"]:
            break
        if not isinstance(data["device_traces"][0], list) or not data["device_traces"][0]:
            break
    return pickle.dumps(data, protocol=4)


def _containers(data, found=None):
    found = [] if found is None else found
    if isinstance(data, dict | list):
        found.append(data)
        for inner in data.values() if isinstance(data, dict) else data:
            _containers(inner, found)
    return found


def damaged_table(table, random):
    """A Parquet file of the table with wrong cells, columns or rows, or with wrong bytes."""
    if random.random() < 0.3:
        return damaged_bytes(_parquet(table), random)
    table = table.copy()
    for _ in range(random.choice([1, 1, 2, 3])):
        kind = random.choice(
            ["cell", "cell", "column", "drop", "some", "twice", "shuffle", "text", "rename", "none"]
        )
        if not len(table.columns):
            break
        name = random.choice(list(table.columns))
        numeric = pd.api.types.is_numeric_dtype(table[name].dtype)
        value = random.choice(NUMBERS if numeric else WORDS)
        if kind == "cell" and len(table):
            column = table[name].astype(
                "Int64" if pd.api.types.is_integer_dtype(table[name].dtype) else object
            )
            column.iloc[random.randrange(len(table))] = value
            table[name] = column
        elif kind == "column" and len(table):
            table[name] = pd.array([value] * len(table), dtype="Int64" if numeric else "string")
        elif kind in ("drop", "rename"):
            table = table.drop(columns=name) if kind == "drop" else table.rename(columns={name: f"{name}_x"})
        elif kind == "some":
            table = table.sample(frac=random.random(), random_state=random.randrange(9999)).sort_index()
        elif kind == "twice":
            table = pd.concat([table, table], ignore_index=True)
        elif kind == "shuffle":
            table = table.sample(frac=1, random_state=random.randrange(9999))
        elif kind == "text":
            table[name] = table[name].astype(str)
        elif kind == "none":
            table = table.iloc[:0]
    return _parquet(table)


def _parquet(table):
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    return content.getvalue()


def snapshot(random, events=120):
    """Plain data of a snapshot whose events replay exactly."""
    made, segment_events, alive = [], [], []
    allocator = CachingAllocator(on_segment_event=segment_events.append)
    frames = [[{"filename": "train.py", "line": line, "name": "step"}] for line in range(5)]

    def note(action, address, size_bytes):
        about = {"action": action, "addr": address, "size": size_bytes, "stream": 0}
        made.append({**about, "time_us": len(made), "frames": random.choice(frames)})

    while len(made) < events:
        if len(alive) < 10 or random.random() < 0.5:
            size_bytes = random.randrange(1, 30 << 20)
            address = allocator.malloc(size_bytes)
            for segment_event in segment_events:
                note(*segment_event)
            segment_events.clear()
            note("alloc", address, size_bytes)
            alive.append((address, size_bytes))
        else:
            address, size_bytes = alive.pop(random.randrange(len(alive)))
            allocator.free(address)
            note("free_requested", address, size_bytes)
            note("free_completed", address, size_bytes)
    segments = []
    for each in allocator.segments():
        blocks = [
            {
                "address": b.address,
                "size": b.size_bytes,
                "requested_size": b.requested_bytes,
                "state": b.state,
            }
            for b in each.blocks
        ]
        about = {"device": 0, "address": each.address, "total_size": each.total_size_bytes, "stream": 0}
        segments.append({**about, "segment_type": each.segment_type, "blocks": blocks})
    return {"segments": segments, "device_traces": [made], "allocator_settings": {}}


class Bench:
    """A good file of each kind in a folder, and the commands on a damaged one."""

    def __init__(self, folder, random):
        self.folder = folder
        self.snapshot = snapshot(random)
        (folder / "good.pickle").write_bytes(pickle.dumps(self.snapshot))
        entries = [Allocation(512, 1024, 1000, "mm"), Mark(Phase(1, "forward"), {512: "parameters"})]
        entries += [
            Allocation(4096, 512, 512, "mul"),
            Free(4096),
            Mark(Phase(1, "backward"), {512: "gradients"}),
        ]
        run_of(entries).save(folder / "good.parquet")
        about = {
            "run_key": "k",
            "workload": "w",
            "device": "cpu",
            "seed": 0,
            "recorded_at": "2026",
            "layers": 0,
        }
        where = {"outcome": "ok", "step": 1, "phase": "forward", "micro_batch": 1, "model": "m"}
        sizes = {"allocated_bytes": 5, "peak_allocated_bytes": 9}
        rows = [
            {**about, **where, **sizes, "phase_index": index, "source": source}
            for index in range(3)
            for source in ("measured", "formula", "simulation")
        ]
        records.append(folder / "good" / "records.parquet", rows)
        (folder / "bad").mkdir()

    def commands(self, kind, random):
        """Write one damaged file of the kind; the commands that read it."""
        folder, page = self.folder, str(self.folder / "page.html")
        if kind == "snapshot":
            bad, good = folder / "bad.pickle", str(folder / "good.pickle")
            bad.write_bytes(damaged_snapshot(self.snapshot, random))
            every = [["replay", str(bad)], ["report", str(bad), "-o", page], ["diff", good, str(bad)]]
        elif kind == "trace":
            bad, good = folder / "bad.parquet", str(folder / "good.parquet")
            bad.write_bytes(_damaged(pd.read_parquet(good), random))
            every = [
                ["report", str(bad), "-o", page],
                ["diff", good, str(bad)],
                ["diff", "--json", str(bad), good],
            ]
        else:
            bad, good = folder / "bad" / "records.parquet", str(folder / "good")
            bad.write_bytes(_damaged(pd.read_parquet(folder / "good" / "records.parquet"), random))
            every = [["show", str(bad.parent)], ["report", str(bad.parent), "-o", page]]
            every.append(["diff", good, str(bad.parent)])
        return every


def _damaged(table, random):
    """Such a file; pandas cannot write all wrong tables, then another."""
    while True:
        try:
            return damaged_table(table, random)
        except (ValueError, TypeError, OverflowError, pa.ArrowException):
            continue
