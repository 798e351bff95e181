"""What a saved run says beside its entries, as JSON: written whole, read back with every value checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from profiler.device import Device
from profiler.gpu.cards import GPU
from profiler.trace.events import Place
from profiler.trace.moments import Entries
from profiler.trace.phase import Phase
from profiler.trace.run import OutOfMemory, PhaseMeasurement, Refusal, Run, phases_told_by
from profiler.trace.segments import Changes
from profiler.workload import Workload

_VERSION = 1
_LARGEST = 1 << 60
_OF_A_PHASE = ("seconds", "reading_seconds", "device_used_bytes", "memory_stats")


def metadata_of(run: Run) -> dict[str, Any]:
    """All but the entries and what belongs to each of them."""
    stopped = run.out_of_memory
    return {
        "version": _VERSION,
        "device": asdict(run.device),
        "name": run.name,
        "workload": run.workload.to_dict() if run.workload else None,
        "out_of_memory": asdict(stopped) if stopped else None,
        "refusals": [asdict(refusal) for refusal in run.refusals],
        "read_back": list(run.read_back),
        "parameters": run.parameters,
        "assumed": run.assumed,
        "note": run.note,
        "provenance": dict(run.provenance),
    }


def run_of(
    said: Any,
    entries: Entries,
    reserved_bytes: Sequence[int],
    segment_changes: Changes,
    phases: tuple[PhaseMeasurement, ...],
) -> Run:
    """The run of this metadata; raises ValueError, LookupError or TypeError for what no run has written."""
    if _is(said, dict)["version"] != _VERSION:
        raise ValueError(f"version {said['version']!r} of saved runs is not {_VERSION}")
    stopped, workload = said["out_of_memory"], said["workload"]
    return Run(
        device=_device(said["device"]),
        name=_is(said["name"], str),
        entries=entries,
        phases=phases,
        reserved_bytes=reserved_bytes,
        segment_changes=segment_changes,
        workload=_workload(workload) if workload is not None else None,
        out_of_memory=_out_of_memory(stopped, len(entries)) if stopped is not None else None,
        refusals=tuple(_refusal(each, len(entries)) for each in _is(said["refusals"], list)),
        read_back=tuple(_is(words, str) for words in _is(said["read_back"], list)),
        parameters=_size(said["parameters"], or_none=True),
        assumed=_is(said["assumed"], str),
        note=_is(said["note"], str),
        provenance={_is(k, str): _is(v, str, type(None)) for k, v in _is(said["provenance"], dict).items()},
    )


def phase_in_words(phase: PhaseMeasurement) -> str:
    """What was read at a phase's end beside the events, as JSON."""
    return json.dumps({name: getattr(phase, name) for name in _OF_A_PHASE})


def measured_phases(
    entries: Entries, reserved_bytes: Sequence[int], words: Sequence[str]
) -> tuple[PhaseMeasurement, ...]:
    """The phases of the entries, with what `phase_in_words` kept of each ("" for one without).

    Raises as `run_of` does.
    """
    told = phases_told_by(entries, reserved_bytes)
    return tuple(
        replace(phase, **_measurement(json.loads(said))) if said else phase
        for phase, said in zip(told, words, strict=True)
    )


def _measurement(said: Any) -> dict[str, Any]:
    statistics = _is(said["memory_stats"], dict)
    return {
        "seconds": _is(said["seconds"], int, float, type(None)),
        "reading_seconds": _is(said["reading_seconds"], int, float, type(None)),
        "device_used_bytes": _size(said["device_used_bytes"], or_none=True),
        "memory_stats": {_is(name, str): _number(count) for name, count in statistics.items()},
    }


def _device(said: Any) -> Device:
    gpu = said["gpu"]
    return Device(said["kind"], _gpu(gpu) if gpu is not None else None)


def _gpu(said: Mapping[str, Any]) -> GPU:
    major, minor = said["capability"]
    values: dict[str, Any] = {"capability": (_size(major), _size(minor))}
    for field in fields(GPU):
        if field.type in (str, bool):
            values[field.name] = _is(said[field.name], field.type)
        elif field.type is int:
            values[field.name] = _size(said[field.name])
    return GPU(**values)


def _workload(said: Any) -> Workload:
    kinds = {"str": str, "int": int}
    return Workload(
        **{
            field.name: _is(said[field.name], kinds.get(str(field.type), dict))
            for field in fields(Workload)
            if field.name in _is(said, dict)
        }
    )


def _out_of_memory(said: Any, entries: int) -> OutOfMemory:
    phase, request = said["phase"], said["request"]
    return OutOfMemory(
        Phase(_size(phase["step"]), _is(phase["name"], str), _size(phase["micro_batch"])),
        _is(said["message"], str),
        _refusal(request, entries) if request is not None else None,
    )


def _refusal(said: Any, entries: int) -> Refusal:
    where, position = said["where"], said["position"]
    if type(position) is not int or not -1 <= position < max(1, entries):
        raise ValueError(f"no entry {position!r}")
    return Refusal(
        requested_bytes=_size(said["requested_bytes"]),
        op=_is(said["op"], str),
        where=Place(*(_is(word, str) for word in where)) if where is not None else None,
        position=position,
        **{
            name: _size(said[name], or_none=True)
            for name in ("allocated_bytes", "reserved_bytes", "free_bytes")
        },
    )


def _is(value: Any, *kinds: Any) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{str(value)[:40]!r} is of the wrong kind")
    return value


def _number(value: Any) -> int:
    """A statistic of torch's, -1 for some that are off."""
    return -1 if value == -1 else int(_size(value))


def _size(value: Any, or_none: bool = False) -> Any:
    if value is None and or_none:
        return None
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ValueError(f"{str(value)[:40]!r} is no size or number")
    return value
