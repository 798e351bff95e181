"""Inside a program on the virtual GPU: says to the stream of its allocator's events what Python knows.

The events themselves are written by stand_ins/events/stream.c into a folder of the process. Beside them stand

    places.jsonl   [module, line, operation], the nth line for place n
    marks.jsonl    the nth line for mark n, the end of a phase: its words, and what lives at which address
    process.json   the command, rank and directory; and, once it has ended by itself, how

Nothing is written by a process that uses no GPU.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from profiler.recording.auto_phases import auto_phases
from profiler.recording.inside import communication
from profiler.recording.owners import Owned
from profiler.recording.places import Attribution
from profiler.recording.virtual.event_stream import LIBRARY, Asked, EventStream
from profiler.trace.phase import Phase
from profiler.training.step import TrainingState

STEPS = "PROFILER_EVENTS_STEPS"
_CUDA = torch.device("cuda")
_WATCHDOG_SECONDS = 0.25
_LASTING = ("parameters", "optimizer_states")  # labelled once, where they stay


def watch() -> None:
    """Watch this process until it ends."""
    if os.environ.get(LIBRARY):
        _Watch(int(os.environ.get(STEPS) or 0)).begin()


class _Watch:
    def __init__(self, steps: int) -> None:
        self._events = EventStream(self._asked)
        self._steps = steps
        self._open = ExitStack()
        self._written_places = self._marks = 0
        self._labelled: set[tuple[int, str]] = set()
        self._ended, self._failed, self._rank = "", False, ""
        self._said_of_process = False
        self._forked = False

    def begin(self) -> None:
        self._attribution = self._open.enter_context(Attribution())
        self._open.enter_context(auto_phases(self.phase, self._step_ends))
        self._events.attach()
        os.register_at_fork(after_in_child=self._end_in_child)
        atexit.register(self._end)
        self._install_error_hook()

    def _install_error_hook(self) -> None:
        """What ended the program, beside what it prints itself."""
        shown = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
            if self._events.written:
                self._failed = True
                self._say_of_process(f"{kind.__name__}: {str(error).partition(chr(10))[0]}")
            shown(kind, error, traceback)

        sys.excepthook = hook

    def _end_in_child(self) -> None:
        """A forked process, such as a DataLoader's worker, has the files of its parent: it says nothing."""
        self._forked = True
        self._end()

    def _end(self) -> None:
        self._events.detach()
        self._open.close()

    def _asked(self, operation: str) -> Asked:
        where = self._attribution.here()
        node = torch._C._current_autograd_node()
        return Asked(where, communication.role() or (node.name() if node is not None else operation))

    # --- phases -----------------------------------------------------------------------------------------

    @contextmanager
    def phase(self, phase: Phase, state: TrainingState) -> Iterator[None]:
        """A phase of the program (training.step.Recorder)."""
        try:
            yield
        finally:
            if not self._forked and self._events.written:
                self._mark(phase, state)

    def _mark(self, phase: Phase, state: TrainingState) -> None:
        now = Owned(state, _CUDA)
        owned: defaultdict[str, list[int]] = defaultdict(list)
        lasting: set[tuple[int, str]] = set()
        for address, category in now.labels.items():
            if category in _LASTING:
                lasting.add((address, category))
                if (address, category) in self._labelled:
                    continue
            owned[category].append(address)
        modules: defaultdict[str, list[int]] = defaultdict(list)
        fresh = {address for address, _ in lasting - self._labelled} | set(owned["gradients"])
        for address, module in now.modules.items():
            if address in fresh:
                modules[module].append(address)
        self._labelled = lasting
        self._marks += 1
        line = {"step": phase.step, "phase": phase.name, "micro_batch": phase.micro_batch}
        self._append("marks.jsonl", [{**line, "labels": owned, "modules": modules}])
        self._append_places()
        self._events.mark(self._marks)
        if not self._said_of_process:
            self._say_of_process()
            self._said_of_process = True

    def _step_ends(self, step: int) -> None:
        if communication.between_ranks():
            # ProcessGroupNCCL lets go of the tensors of an all-reduce when its watchdog looks again, ten
            # times a second: a step on a GPU takes longer than that.
            time.sleep(_WATCHDOG_SECONDS)
        if self._steps and step >= self._steps and self._events.written:
            self._say_of_process(f"stopped after {step} steps")
            raise SystemExit(0)

    # --- files ------------------------------------------------------------------------------------------

    def _append_places(self) -> None:
        known = self._events.places
        self._append("places.jsonl", [[*where, op] for where, op in known[self._written_places :]])
        self._written_places = len(known)

    def _append(self, name: str, lines: list[Any]) -> None:
        with (self._events.folder / name).open("a") as file:
            file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)

    def _say_of_process(self, ended: str = "") -> None:
        self._ended = ended or self._ended
        self._rank = communication.rank() or self._rank  # a group may be gone at the end
        said = {
            "pid": os.getpid(),
            "command": sys.argv,
            "rank": self._rank,
            "ended": self._ended,
            "failed": self._failed,
        }
        (self._events.folder / "process.json").write_text(json.dumps(said))
        self._append_places()
