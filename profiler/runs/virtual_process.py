"""A function in a fresh process that sees a virtual GPU, and what its answer rests on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from profiler.gpu.virtual import launch
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.gpu.virtual.compile import EVENTS
from profiler.gpu.virtual.inside import variables_for
from profiler.gpu.virtual.installation import find_torch
from profiler.gpu.virtual.journal import Journal, read_journal
from profiler.gpu.virtual.values.reads import ProgramReads, program_reads
from profiler.recording.virtual.event_stream import FOLDER, LIBRARY
from profiler.runs.limits import allocator_environment
from profiler.runs.processes import Server, in_fresh_process
from profiler.trace.run import CHANGES_MEMORY


@dataclass(frozen=True)
class Answer:
    """What a function returned, and what that rests on: what was called and is not modelled or was assumed,
    and what the host read that was not computed.
    """

    result: Any
    journal: Journal
    reads: ProgramReads

    def rests_on(self) -> tuple[str, ...]:
        """All of it in words, what can change memory first."""
        reads = self.reads.reads
        return (
            *(f"{read.in_words}, {CHANGES_MEMORY}" for read in self.reads.reads if read.changes_memory),
            *(f"not modelled: {name}" for name in self.journal.not_modelled),
            *(f"assumed: {text}" for text in self.journal.assumed),
            *(read.in_words for read in reads if not read.changes_memory),
            *(f"not followed: {operation}: {why}" for operation, why in self.reads.not_followed),
        )


def in_virtual_process(
    function: Callable[..., Any],
    *arguments: Any,
    gpus: VirtualGPUs,
    name: str,
    allocator_settings: str = "",
    on_phase: Callable[[int], None] | None = None,
    timeout_seconds: float | None = None,
    heard: Callable[[str], None] | None = None,
) -> Answer:
    """What `function(*arguments)` returns where "cuda" is the virtual GPU; see in_fresh_process.

    Raises ProfilerError as that does, and where no virtual GPU can be had.
    """
    server = virtual_server()
    with tempfile.TemporaryDirectory(prefix="virtual_gpu.") as folder:
        variables = launch.card_variables(gpus, Path(folder), _installation())
        variables |= variables_for(os.environ, Path(folder)) | allocator_environment(allocator_settings)
        variables[FOLDER] = folder
        result = in_fresh_process(
            _seeing,
            variables,
            function,
            arguments,
            name=name,
            on_phase=on_phase,
            timeout_seconds=timeout_seconds,
            server=server,
            heard=heard,
        )
        return Answer(result, read_journal(Path(folder)), program_reads(Path(folder)))


_installation = cache(find_torch)


@cache
def virtual_server() -> Server:
    """What forks processes on the virtual GPU; raises ProfilerError where there can be none."""
    launch.check_no_real_gpu()
    variables = launch.preloaded(_installation())
    library = next(path for path in variables["LD_PRELOAD"].split(":") if path.endswith(EVENTS))
    return Server("profiler.runs.servers.virtual", (*variables.items(), (LIBRARY, library)))


def _seeing(
    variables: Mapping[str, str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    **options: Any,
) -> Any:
    """The inside of the process, which has not used CUDA yet."""
    from profiler.gpu.virtual.values import kernels
    from profiler.gpu.virtual.values.process import journal

    os.environ.update(variables)
    journal.open()
    kernels.wrap_all()  # the server has, unless this torch is too old for it, which the journal says
    try:
        return function(*arguments, **options)
    finally:
        journal.close()
