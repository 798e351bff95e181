"""`profiler replay`: a recorded CUDA memory snapshot against the model of the caching allocator."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from profiler.errors import ProfilerError
from profiler.gpu import replay as replaying
from profiler.gpu.snapshot import DeviceSnapshot, load_snapshot
from profiler.gpu.stacks import origin
from profiler.units import format_bytes
from profiler.verbs.options import add_device
from profiler.views import screen

SUMMARY = "a recorded CUDA snapshot through the model of the allocator: is every address as recorded?"
DESCRIPTION = "Replay a snapshot's requests and compare every address. Exit code 4: it differs."
EXAMPLES = ""
DIFFERS = 4  # exit code


def add_options(parser: ArgumentParser) -> None:
    """The recording."""
    parser.add_argument(
        "snapshot", type=Path, metavar="SNAPSHOT", help="a file of torch.cuda.memory._dump_snapshot"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(options: Namespace) -> int:
    """Print for each device what the replay matched; returns DIFFERS unless all that was recorded is exact.

    Raises ProfilerError for a file that is no snapshot, or that holds no events.
    """
    path: Path = options.snapshot
    with screen.reading(path) as on_progress:
        snapshot = load_snapshot(path, on_progress)
        devices = [snapshot.device(options.device)] if options.device is not None else snapshot.devices
        pairs = [
            (each, replaying.replay_device(each, snapshot.settings, every_rule=True)) for each in devices
        ]
    pairs = [
        (device, result) for device, result in pairs if result.verdict != "empty" or device.out_of_memory
    ]
    if not pairs:
        raise ProfilerError(f"{path}: no events; record with torch.cuda.memory._record_memory_history()")
    if options.json:
        print(json.dumps([_as_dict(*pair) for pair in pairs], indent=2))
    else:
        _print(pairs)
    return 0 if all(result.verdict == "exact" for _, result in pairs) else DIFFERS


def _print(pairs: list[tuple[DeviceSnapshot, replaying.ReplayResult]]) -> None:
    console = screen.console()
    for device, result in pairs:
        table = screen.table("", "", lines=False)
        table.show_header = False
        for name, value in replaying.summary(result):
            table.add_row(name, value)
        for _, event in device.out_of_memory:
            asked, free = format_bytes(event.size_bytes), format_bytes(event.address)
            table.add_row("out of memory", f"{asked} asked for by {origin(event.frames)}, {free} free")
        console.print(table)


def _as_dict(device: DeviceSnapshot, result: replaying.ReplayResult) -> dict[str, Any]:
    found = asdict(replace(result, timeline=replaying.Timeline((), ()), start=()))
    del found["timeline"], found["start"]
    failed = [
        {"requested_bytes": e.size_bytes, "free_bytes": e.address, "origin": origin(e.frames)}
        for _, e in device.out_of_memory
    ]
    return {**found, "out_of_memory": failed}
