"""A grid of questions: every combination of models, batches, cards and whatever else a workload has."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from profiler.errors import ProfilerError, first_line
from profiler.gpu.allocator.settings import AllocatorSettings
from profiler.gpu.cards import DEFAULT_GPU, GPU, find_gpu
from profiler.runs.provenance import version_of
from profiler.workload import Workload

_SETTINGS = "settings"
_WHERE = {"gpu": DEFAULT_GPU, "allocator_settings": ""}
_FIELDS = {field.name: type(field.default) for field in fields(Workload) if field.name != _SETTINGS}
_TYPES = {**_FIELDS, "model": str, "batch": int, "gpu": str, "allocator_settings": str}
_MOST_CELLS = 1_000_000


@dataclass(frozen=True)
class Cell:
    """One question of a grid: does this workload fit on this GPU, with these settings of its allocator?"""

    workload: Workload
    gpu: GPU
    allocator_settings: str = ""

    @property
    def key(self) -> str:
        """A name that is another for another workload, card, allocator setting, torch, or text of the file
        that the model stands in; what that file imports does not enter.
        """
        parts = {
            "workload": self.workload.key,
            "gpu": {name: value for name, value in asdict(self.gpu).items() if name != "source"},
            "allocator_settings": self.allocator_settings,
            "torch": version_of("torch"),
            "file": _digest_of_file(self.workload.model),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def __str__(self) -> str:
        settings = f", {self.allocator_settings}" if self.allocator_settings else ""
        return f"{self.workload} on {self.gpu.name}{settings}"


@dataclass(frozen=True)
class Grid:
    """What a file asks.

    Attributes:
        axes: what has several values, in the order of the file, settings of a configuration as
            "settings.NAME".
        cells: each combination that can be.
        impossible: those that cannot, in words, with the reason.
    """

    axes: Mapping[str, Sequence[Any]]
    cells: tuple[Cell, ...]
    impossible: tuple[tuple[str, str], ...]


def read_grid(path: Path) -> Grid:
    """The grid that a TOML file describes: a key is a field of Workload, `gpu` or `allocator_settings`, or
    stands in the table [settings]; its value is one, or a list of them. What is not said has its default.

    Raises ProfilerError for a file that is none, an unknown key, card or allocator setting, a value of
    another type, and where no combination is possible.
    """
    try:
        said = tomllib.loads(path.read_text())
    except OSError as error:
        raise ProfilerError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfilerError(f"{path} is not TOML: {first_line(error)}") from error
    choices = dict(_choices(said, path))
    for required in ("model", "batch"):
        if required not in choices:
            raise ProfilerError(f"{path}: {required} is missing; give one, or a list of them")
    count = 1
    for values in choices.values():
        count *= len(values)
    if count > _MOST_CELLS:
        raise ProfilerError(f"{path}: {count:,} combinations; there can be {_MOST_CELLS:,}")
    cards = {name: find_gpu(name) for name in choices["gpu"]}
    for settings in choices["allocator_settings"]:
        _check_allocator_settings(settings, path)
    cells: dict[Cell, None] = {}
    impossible = []
    for combination in product(*choices.values()):
        chosen = dict(zip(choices, combination, strict=True))
        try:
            workload = _workload(chosen)
        except ProfilerError as error:
            varied = (f"{name} {chosen[name]}" for name in choices if len(choices[name]) > 1)
            impossible.append((", ".join(varied), str(error)))
            continue
        cells[Cell(workload, cards[chosen["gpu"]], chosen["allocator_settings"])] = None
    if not cells:
        raise ProfilerError(f"{path}: no combination is possible: {impossible[0][1]}")
    axes = {name: values for name, values in choices.items() if len(values) > 1}
    return Grid(axes, tuple(cells), tuple(impossible))


def _choices(said: Mapping[str, Any], path: Path) -> Iterator[tuple[str, list[Any]]]:
    for name, default in _WHERE.items():
        if name not in said:
            yield name, [default]
    for name, value in said.items():
        if name == _SETTINGS:
            if not isinstance(value, dict):
                raise ProfilerError(f"{path}: [settings] is a table of a configuration's settings")
            for setting, values in value.items():
                yield f"{_SETTINGS}.{setting}", _listed(values, f"settings.{setting}", path)
            continue
        if name not in _TYPES:
            raise ProfilerError(f"{path}: {name} is none of {', '.join([*_TYPES, _SETTINGS])}")
        values = _listed(value, name, path)
        for each in values:
            if type(each) is not _TYPES[name]:
                kind = "a whole number" if _TYPES[name] is int else "a text"
                raise ProfilerError(f"{path}: {name} is {kind} or a list of them, not {each!r}")
        yield name, values


def _listed(value: Any, name: str, path: Path) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ProfilerError(f"{path}: {name} is an empty list")
    return values


def _check_allocator_settings(settings: str, path: Path) -> None:
    try:
        AllocatorSettings.parse(settings)
    except ProfilerError as error:
        raise ProfilerError(f"{path}: allocator_settings: {error}") from error


def _workload(chosen: Mapping[str, Any]) -> Workload:
    settings = {
        name.partition(".")[2]: value for name, value in chosen.items() if name.startswith(f"{_SETTINGS}.")
    }
    said = {name: value for name, value in chosen.items() if name in _TYPES and name not in _WHERE}
    return Workload(**said, settings=settings)


def _digest_of_file(model: str) -> str:
    """Of the file of a model that is named by one, "" for another or a file that is not there."""
    path = Path(model.rpartition(":")[0] or model)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix in (".py", ".json") else ""
    except OSError:
        return ""
