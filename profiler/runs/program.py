"""Any program on a virtual GPU, watched: what it took is read back when it has ended, however it did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from profiler.errors import ProfilerError
from profiler.gpu.virtual import inside, launch
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.gpu.virtual.compile import EVENTS
from profiler.gpu.virtual.installation import torch_of
from profiler.gpu.virtual.journal import Journal, read_journal
from profiler.gpu.virtual.values.reads import FloatRead, ProgramReads, program_reads
from profiler.recording.virtual.event_stream import FOLDER, LIBRARY
from profiler.recording.virtual.program_run import ProgramProcess, read_program
from profiler.views import screen

_WATCHER = Path(__file__).parents[1] / "recording" / "inside"


@dataclass(frozen=True)
class Watched:
    """A program's end: its exit code (128 and the signal's number for one that a signal ended), what ran.

    `processes` has each process on each GPU that it used; `journal` what was called and is not modelled,
    `reads` what it read back that was not computed.
    """

    exit_code: int
    processes: Sequence[ProgramProcess]
    journal: Journal
    reads: ProgramReads


def run_program(
    command: Sequence[str],
    gpus: VirtualGPUs,
    steps: int = 0,
    hide_real_gpu: bool = False,
    stdout: Any = None,
    inherited: Mapping[str, str] | None = None,
    packages: Sequence[Path] = (),
) -> Watched:
    """Run a command to its end on virtual GPUs, its input and output where this process's are.

    Args:
        command: the program and its arguments; children have the GPUs too.
        gpus: what it sees.
        steps: end each process after so many training steps; 0 lets it run.
        hide_real_gpu: go on where a real GPU is.
        stdout: where its output goes instead, as in subprocess.
        inherited: what the environment is otherwise; this process's own by default.
        packages: what is loaded into each Python process besides (profiler.gpu.virtual.inside).

    Ctrl-C and SIGTERM are the program's: what it had done by then is the result.

    Raises ProfilerError where there can be no virtual GPU or the command cannot be started.
    """
    hidden = inside.flag_that_hides(command)
    if hidden is not None:
        raise ProfilerError(f"python {hidden} loads nothing from outside: run the command without {hidden}")
    with tempfile.TemporaryDirectory(prefix="virtual_gpu.") as name:
        folder, events = Path(name), Path(name) / "events"
        events.mkdir()
        variables = launch.environment(
            gpus,
            folder,
            torch_of(command),
            hide_real_gpu=hide_real_gpu,
            inherited=inherited,
            packages=(inside.VALUES, _WATCHER, *packages),
        )
        library = next(path for path in variables["LD_PRELOAD"].split(":") if path.endswith(EVENTS))
        variables |= {
            FOLDER: str(events),
            LIBRARY: library,
            "PROFILER_EVENTS_STEPS": str(steps),
        }
        sys.stdout.flush()
        try:
            process = subprocess.Popen(list(command), env=variables, stdout=stdout)
        except OSError as error:
            raise ProfilerError(f"cannot run {command[0]}: {error.strerror}") from error
        with _signals_to(process):
            code = process.wait()
        exit_code = code if code >= 0 else 128 - code
        with screen.reading(events):
            processes = read_program(events, gpus.gpu)
        return Watched(exit_code, processes, read_journal(folder), program_reads(folder))


def together(runs: Sequence[Watched]) -> Watched:
    """Several runs of a program as one: the exit code is the first that is not 0, counts are sums."""
    counts: Counter[FloatRead] = Counter()
    for read in (read for each in runs for read in each.reads.reads):
        counts[replace(read, count=0)] += read.count
    reads = ProgramReads(
        tuple(process for each in runs for process in each.reads.processes),
        tuple(replace(read, count=count) for read, count in counts.items()),
        tuple(sorted({pair for each in runs for pair in each.reads.not_followed})),
    )
    journal = Journal(
        tuple(entry for each in runs for entry in each.journal.entries),
        {place: size for each in runs for place, size in each.journal.peak_bytes.items()},
    )
    processes = [process for each in runs for process in each.processes]
    return Watched(next((e.exit_code for e in runs if e.exit_code), 0), processes, journal, reads)


@contextmanager
def _signals_to(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Inside, what ends us ends the program instead, and we go on to say what it took."""

    def forward(number: int, frame: object) -> None:
        # A terminal's Ctrl-C goes to all of its foreground processes: the program has it already.
        if number != signal.SIGINT or not _in_foreground():
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal
        return False
