"""Which way a GPU that is not there is had: virtual where the machine allows it, else simulated."""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata

from profiler.device import ENGINES, SIMULATED, VIRTUAL, Device
from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU
from profiler.runs.virtual_process import virtual_server

_OLDEST_TORCH = (2, 11)  # as pyproject.toml has it


def device_for(gpu: GPU, engine: str | None = None) -> Device:
    """The device that stands for `gpu`, of one of ENGINES; None: the best that there can be.

    Raises ProfilerError for an engine that there is not, and where "virtual" cannot be had, with the reason;
    and for a torch older than this package asks for, with which programs run by `profiler on` only.
    """
    if engine not in (None, *ENGINES):
        raise ProfilerError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    _check_torch()
    if engine == VIRTUAL:
        virtual_server()
    return Device(engine or (SIMULATED if why_not_virtual() else VIRTUAL), gpu)


def _check_torch() -> None:
    installed = metadata.version("torch")
    if tuple(map(int, re.findall(r"\d+", installed)[:2])) < _OLDEST_TORCH:
        raise ProfilerError(
            f"torch {installed} is older than {'.'.join(map(str, _OLDEST_TORCH))}, which this needs: "
            "install a later torch, or leave it as it is and run your program with "
            "`profiler on GPU -- python train.py`"
        )


@cache
def why_not_virtual() -> str:
    """Why no virtual GPU can be had, and what is used instead; "" where one can. Compiles it if need be."""
    try:
        virtual_server()
    except ProfilerError as error:
        return str(error)
    return ""
