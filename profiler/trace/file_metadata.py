"""What a saved run says beside its entries, as JSON: written whole, read back with every value checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from profiler.workload import Workload

_VERSION = "version"
_LARGEST = 1 << 60


def in_words(of: Any, names: Sequence[str], version: int | None = None) -> str:
    """These fields of a dataclass as JSON, with the version of their form if there is one."""
    form = {} if version is None else {_VERSION: version}
    return json.dumps({**form, **_values(of, names)}, default=_plain)


def said(kind: type, words: str, names: Sequence[str], version: int | None = None) -> dict[str, Any]:
    """These fields of a dataclass, each of its type, from what `in_words` wrote.

    Raises ValueError, LookupError, TypeError or RecursionError for what it has not written.
    """
    values = json.loads(words)
    if version is not None and values[_VERSION] != version:
        raise ValueError(f"version {values[_VERSION]!r} of saved runs is not {version}")
    return _checked(kind, values, names)


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
