"""Which way a GPU that is not there is had: virtual where the machine allows it, else simulated."""

from __future__ import annotations

from functools import cache

from profiler.device import ENGINES, SIMULATED, VIRTUAL, Device
from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU
from profiler.runs.virtual_process import virtual_server


def device_for(gpu: GPU, engine: str | None = None) -> Device:
    """The device that stands for `gpu`, of one of ENGINES; None: the best that there can be.

    Raises ProfilerError for an engine that there is not, and where "virtual" cannot be had, with the reason.
    """
    if engine not in (None, *ENGINES):
        raise ProfilerError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    if engine == VIRTUAL:
        virtual_server()
    return Device(engine or (SIMULATED if why_not_virtual() else VIRTUAL), gpu)


@cache
def why_not_virtual() -> str:
    """Why no virtual GPU can be had, and what is used instead; "" where one can. Compiles it if need be."""
    try:
        virtual_server()
    except ProfilerError as error:
        return str(error)
    return ""
