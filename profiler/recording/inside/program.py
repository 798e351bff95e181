"""Inside a program on the virtual GPU: says to the stream of its allocator's events what Python knows.

The events themselves are written by stand_ins/events.c into a folder of the process. Beside them stand here

    places.jsonl   [module, line, operation], the nth line for place n
    marks.jsonl    the nth line for mark n, the end of a phase: its words, and what lives at which address
    process.json   the command, rank and directory; and, once it has ended by itself, how

Nothing is written by a process that uses no GPU.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from profiler.recording.auto_phases import auto_phases
from profiler.recording.inside import communication
from profiler.recording.owners import labels, parameter_modules
from profiler.recording.places import Attribution
from profiler.trace.phase import Phase
from profiler.training.step import TrainingState

LIBRARY, STEPS = "PROFILER_EVENTS_LIBRARY", "PROFILER_EVENTS_STEPS"
_PLACE_OF = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_size_t)
_CUDA = torch.device("cuda")
_WATCHDOG_SECONDS = 0.25
_LASTING = ("parameters", "optimizer_states")  # labelled once, where they stay


def watch() -> None:
    """Watch this process until it ends."""
    library = os.environ.get(LIBRARY)
    if library:
        _Watch(ctypes.CDLL(library), int(os.environ.get(STEPS) or 0)).begin()


class _Watch:
    def __init__(self, events: Any, steps: int) -> None:
        self._events = events
        events.events_written.restype = ctypes.c_uint64
        events.events_folder.restype = ctypes.c_char_p
        events.events_mark.argtypes = [ctypes.c_uint64]
        self._steps = steps
        self._open = ExitStack()
        self._places: dict[tuple[str, str, str], int] = {}
        self._written_places = self._marks = 0
        self._labelled: set[tuple[int, str]] = set()
        self._ended = ""
        self._said_of_process = False
        self._forked = False
        self._hold = _PLACE_OF(self._place)  # ctypes keeps no reference

    def begin(self) -> None:
        self._attribution = self._open.enter_context(Attribution())
        self._open.enter_context(auto_phases(self.phase, self._step_ends))
        self._events.events_attach(self._hold)
        os.register_at_fork(after_in_child=self._end_in_child)
        atexit.register(self._end)
        self._install_error_hook()

    def _install_error_hook(self) -> None:
        """What ended the program, beside what it prints itself."""
        shown = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
            if self._events.events_written():
                self._say_of_process(f"{kind.__name__}: {str(error).partition(chr(10))[0]}")
            shown(kind, error, traceback)

        sys.excepthook = hook

    def _end_in_child(self) -> None:
        """A forked process, such as a DataLoader's worker, has the files of its parent: it says nothing."""
        self._forked = True
        self._end()

    def _end(self) -> None:
        self._events.events_detach()
        self._open.close()

    def _place(self, size_bytes: int) -> int:
        """The number of the place that allocates now; called before the allocation, without any lock."""
        try:
            where = self._attribution.here()
            node = torch._C._current_autograd_node()
            op = communication.role() or (node.name() if node is not None else "")
            place = (where.module, where.line, op)
            number = self._places.get(place)
            if number is None:
                number = self._places[place] = len(self._places) + 1
            return number
        except KeyboardInterrupt:
            return -1
        except Exception:
            return 0

    # --- phases -----------------------------------------------------------------------------------------

    @contextmanager
    def phase(self, phase: Phase, state: TrainingState) -> Iterator[None]:
        """A phase of the program (training.step.Recorder)."""
        try:
            yield
        finally:
            if not self._forked and self._events.events_written():
                self._mark(phase, state)

    def _mark(self, phase: Phase, state: TrainingState) -> None:
        owned: defaultdict[str, list[int]] = defaultdict(list)
        lasting: set[tuple[int, str]] = set()
        for address, category in labels(state, _CUDA).items():
            if category in _LASTING:
                lasting.add((address, category))
                if (address, category) in self._labelled:
                    continue
            owned[category].append(address)
        modules: defaultdict[str, list[int]] = defaultdict(list)
        fresh = {address for address, _ in lasting - self._labelled} | set(owned["gradients"])
        for address, module in parameter_modules(state, _CUDA).items():
            if address in fresh:
                modules[module].append(address)
        self._labelled = lasting
        self._marks += 1
        line = {"step": phase.step, "phase": phase.name, "micro_batch": phase.micro_batch}
        self._append("marks.jsonl", [{**line, "labels": owned, "modules": modules}])
        known = list(self._places)
        self._append("places.jsonl", known[self._written_places :])
        self._written_places = len(known)
        self._events.events_mark(self._marks)
        if not self._said_of_process:
            self._say_of_process()
            self._said_of_process = True

    def _step_ends(self, step: int) -> None:
        if communication.between_ranks():
            # ProcessGroupNCCL lets go of the tensors of an all-reduce when its watchdog looks again, ten
            # times a second: a step on a GPU takes longer than that.
            time.sleep(_WATCHDOG_SECONDS)
        if self._steps and step >= self._steps and self._events.events_written():
            self._say_of_process(f"stopped after {step} steps")
            raise SystemExit(0)

    # --- files ------------------------------------------------------------------------------------------

    def _folder(self) -> Path:
        return Path(os.fsdecode(self._events.events_folder()))

    def _append(self, name: str, lines: list[Any]) -> None:
        with (self._folder() / name).open("a") as file:
            file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)

    def _say_of_process(self, ended: str = "") -> None:
        self._ended = ended or self._ended
        said = {
            "pid": os.getpid(),
            "command": sys.argv,
            "rank": os.environ.get("RANK", ""),
            "ended": self._ended,
        }
        (self._folder() / "process.json").write_text(json.dumps(said))
        known = list(self._places)
        self._append("places.jsonl", known[self._written_places :])
        self._written_places = len(known)
