"""Objects that another rank would send: a lone rank has its own."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed import distributed_c10d

_ASSUMED = 2  # enum journal_kind in gpu/virtual/stand_ins/common.h


class _Entry(ctypes.Structure):
    """struct journal_entry, there too."""

    _fields_ = [("text", ctypes.c_char_p), ("kind", ctypes.c_int), ("slot", ctypes.c_int)]


_entry = _Entry(b"objects that another rank sends to a lone rank are those that it has itself", _ASSUMED, 0)


def keep_own_objects() -> None:
    """Let this process keep the objects that it has where another rank's would take their place.

    Their size would be read from memory that nobody wrote.
    """
    name = "broadcast_object_list"
    own = _kept(getattr(distributed_c10d, name))
    for module in (distributed_c10d, torch.distributed):
        setattr(module, name, own)


def _kept(broadcast: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(broadcast)
    def run(object_list: list[Any], src: Any = None, group: Any = None, *rest: Any, **keywords: Any) -> Any:
        source = src
        if keywords.get("group_src") is not None:
            within: Any = group or torch.distributed.group.WORLD
            source = torch.distributed.get_global_rank(within, keywords["group_src"])
        if torch.distributed.get_rank() == (source or 0):
            return broadcast(object_list, src, group, *rest, **keywords)
        _note()
        return None

    return run


def _note() -> None:
    """Into the journal of what is assumed, where the stand-ins are preloaded."""
    count = getattr(ctypes.CDLL(None), "vgpu_journal_count", None)
    if count is not None:
        count(ctypes.byref(_entry))
