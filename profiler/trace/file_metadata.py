"""What a saved run says beside its entries, as JSON: written whole, read back with every value checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from profiler.trace.moments import Entries
from profiler.trace.run import PhaseMeasurement, Run, phases_told_by
from profiler.trace.segments import Changes
from profiler.workload import Workload

_VERSION = 1
_LARGEST = 1 << 60
# The rest is told by rows, an entry each.
_OF_A_RUN = (
    *("device", "name", "workload", "out_of_memory", "refusals", "rests_on"),
    *("parameters", "assumed", "note", "provenance"),
)
_OF_A_PHASE = ("seconds", "reading_seconds", "device_used_bytes", "memory_stats")


def run_in_words(run: Run) -> str:
    """All but the entries and what belongs to each of them, as JSON."""
    return json.dumps({"version": _VERSION, **_values(run, _OF_A_RUN)}, default=_plain)


def phase_in_words(phase: PhaseMeasurement) -> str:
    """What was read at a phase's end beside the events, as JSON."""
    return json.dumps(_values(phase, _OF_A_PHASE), default=_plain)


def run_said(
    said: Any,
    entries: Entries,
    reserved_bytes: Sequence[int],
    segment_changes: Changes,
    phases: tuple[PhaseMeasurement, ...],
) -> Run:
    """The run of these words; raises ValueError, LookupError or TypeError for what no run has written."""
    if said["version"] != _VERSION:
        raise ValueError(f"version {said['version']!r} of saved runs is not {_VERSION}")
    values = _checked(Run, said, _OF_A_RUN)
    told: dict[str, Any] = {"reserved_bytes": reserved_bytes, "segment_changes": segment_changes}
    run = Run(entries=entries, phases=phases, **told, **values)
    if any(refusal.position >= len(entries) for refusal in run.refusals):
        raise ValueError("a request was refused after the last entry")
    return run


def phases_said(
    entries: Entries, reserved_bytes: Sequence[int], words: Sequence[str]
) -> tuple[PhaseMeasurement, ...]:
    """The phases of the entries, with what `phase_in_words` kept of each ("" for one without).

    Raises as `run_said` does.
    """
    told = phases_told_by(entries, reserved_bytes)
    return tuple(
        replace(phase, **_checked(PhaseMeasurement, json.loads(said), _OF_A_PHASE)) if said else phase
        for phase, said in zip(told, words, strict=True)
    )


def _values(of: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def _plain(value: Any) -> Any:
    """What JSON has no word for: a dataclass by its fields, a mapping that is no dict."""
    if isinstance(value, Workload):
        return value.to_dict()
    if is_dataclass(value):
        return _values(value, [field.name for field in fields(value)])
    return dict(value)


def _checked(kind: Any, said: Any, names: Sequence[str]) -> dict[str, Any]:
    """The fields of a dataclass of these names, each of its type."""
    types = get_type_hints(kind)
    return {name: _read(types[name], said[name]) for name in names}


def _read(kind: Any, said: Any) -> Any:  # noqa: PLR0911  one for each kind of type
    """A value of this type from what JSON makes of it. Raises TypeError, ValueError or LookupError."""
    origin, of = get_origin(kind), get_args(kind)
    if isinstance(kind, UnionType):
        return None if said is None and NoneType in of else _read(of[0], said)
    if is_dataclass(kind):
        names = [each.name for each in fields(kind) if each.name in said or each.default is MISSING]
        return cast(Any, kind)(**_checked(kind, said, names))
    if origin is tuple and of[-1] is ...:
        return tuple(_read(of[0], each) for each in _is(list, said))
    if origin is tuple:
        return tuple(_read(*pair) for pair in zip(of, _is(list, said), strict=True))
    if origin is Mapping:
        return {_is(str, name): _read(of[1], value) for name, value in _is(dict, said).items()}
    if hasattr(kind, "_fields"):  # a named tuple
        types = get_type_hints(kind).values()
        return kind(*(_read(*pair) for pair in zip(types, _is(list, said), strict=True)))
    if kind is float:
        return float(_is(float, said) if type(said) is not int else said)
    if kind is int and not -1 <= _is(int, said) < _LARGEST:  # -1 is a statistic of torch's that is off
        raise ValueError(f"{str(said)[:40]} is no size or number")
    return said if kind is Any else _is(kind, said)


def _is(kind: Any, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{str(value)[:40]!r} is no {kind.__name__}")
    return value
