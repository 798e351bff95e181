"""Where an allocation comes from: the module that was running, and the line of Python that asked for it.

In a forward pass both are read off the running program: a stack of modules, kept from call to call, and the
Python frames. The backward pass runs in C++ on a thread of its own, without either. There
the autograd node that is running says it by its sequence number: a node takes its thread's next number when
its operation runs forward (torch/csrc/autograd/function.h), just before the operation allocates, so that a
tape of (number, module, line) written in the forward pass names every node. Nothing of the program is held:
modules by weak references, nodes and tensors not at all.
"""

from __future__ import annotations

import sys
import threading
from bisect import bisect_right
from collections import defaultdict
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from profiler.recording.module_calls import told_of_module_calls
from profiler.trace.events import Place
from profiler.training.user_code import is_user_code, short_path

_TORCH_FOLDER = f"{Path(torch.__file__).parent}/"

_USER, _TORCH, _ENGINE, _OTHER = range(4)

# Of a tape, whose program may run for days: far more than one step's nodes.
_REMEMBERED = 1 << 18

_sequence_number = torch._C._autograd._get_sequence_nr
_current_node = torch._C._current_autograd_node


class _Tape:
    """One thread's running modules, and which module and line each of its sequence numbers belongs to."""

    def __init__(self) -> None:
        self.running: list[str] = []  # paths
        self.starts: list[int] = []  # from this number on the module of the same index was running
        self.modules: list[str] = []
        self.places: dict[int, Place] = {}  # by the number of the node whose operation allocated

    @property
    def module(self) -> str:
        return self.running[-1] if self.running else ""

    def note_running(self) -> None:
        """The running module has changed."""
        self.starts.append(_sequence_number())
        self.modules.append(self.module)
        if len(self.starts) > _REMEMBERED:
            del self.starts[: _REMEMBERED // 2], self.modules[: _REMEMBERED // 2]
        if len(self.places) > _REMEMBERED:
            self.places = dict(islice(self.places.items(), _REMEMBERED // 2, None))

    def place_of(self, node: Any) -> Place:
        """Where the node's operation ran; the line is "" if that allocated nothing (a view)."""
        number = node._sequence_nr()
        place = self.places.get(number)
        if place is not None:
            return place
        index = bisect_right(self.starts, number) - 1
        return Place(self.modules[index] if index >= 0 else "", "")


class Attribution:
    """Answers `here()` while it is open: `with Attribution() as attribution: ...`.

    Opens on the thread that runs the program.
    """

    def __init__(self) -> None:
        self._names: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()
        self._tapes: defaultdict[int, _Tape] = defaultdict(_Tape)

    def __enter__(self) -> Attribution:
        self._home = self._tapes[threading.get_ident()]
        self._calls = told_of_module_calls(self._enter_module, self._leave_module)
        self._calls.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._calls.__exit__(None, None, None)

    def know(self, model: torch.nn.Module) -> None:
        """Name a model's modules by their paths in it, whichever of them is called first."""
        if model not in self._names:
            self._name_tree(model)

    def here(self) -> Place:
        """The place of an allocation that happens now, on this thread."""
        tape = self._tapes[threading.get_ident()]
        node = _current_node()
        calls = _calls(sys._getframe(1))
        if node is None or ((calls.user or tape.running) and not calls.through_engine):
            # The program itself, or Python that autograd runs: a custom backward, a recomputed forward.
            module = tape.module
            if node is not None and not module:
                module = self._home.place_of(node).module
            place = Place(module, calls.user or calls.torch)
            tape.places.setdefault(_sequence_number() - 1, place)
            return place
        # A backward pass started from Python that autograd itself runs has nodes of this thread.
        return (tape if calls.through_engine else self._home).place_of(node)

    def _enter_module(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        tape = self._tapes[threading.get_ident()]
        path = self._names.get(module)
        if path is None:
            path = self._name(module, tape)
        tape.running.append(path)
        tape.note_running()

    def _leave_module(self, module: torch.nn.Module) -> None:
        tape = self._tapes[threading.get_ident()]
        tape.running.pop()
        tape.note_running()

    def _name(self, module: torch.nn.Module, tape: _Tape) -> str:
        """The path of a module not seen before: below the running one, or the root of a tree of its own."""
        if tape.running:
            self._names[module] = f"{tape.module}.{type(module).__name__}"
        else:
            self._name_tree(module)
        return self._names[module]

    def _name_tree(self, root: torch.nn.Module) -> None:
        for path, part in root.named_modules():
            self._names.setdefault(part, path or type(root).__name__)


class _Calls(NamedTuple):
    """What the Python stack says: the innermost line of the user and of torch ("" if there is none)."""

    user: str
    torch: str
    through_engine: bool  # autograd's engine was called before any line of the user: they are its caller's


def _calls(frame: FrameType | None) -> _Calls:
    torch_line = ""
    while frame is not None:
        code = frame.f_code
        known = _owners.get(id(code))
        if known is None:
            known = _owners[id(code)] = _owner(code), code
        owner = known[0]
        if owner == _USER:
            return _Calls(_said(code, frame.f_lineno), torch_line, False)
        if owner == _ENGINE:
            return _Calls("", torch_line, True)
        if owner == _TORCH and not torch_line:
            torch_line = _said(code, frame.f_lineno)
        frame = frame.f_back
    return _Calls("", torch_line, False)


# By the number of the code, which is kept: its own hash is that of all that is in it.
_owners: dict[int, tuple[int, CodeType]] = {}
_lines: dict[tuple[int, int], tuple[str, CodeType]] = {}


def _owner(code: CodeType) -> int:
    filename = code.co_filename
    if filename.startswith(_TORCH_FOLDER):
        return _ENGINE if code.co_name == "_engine_run_backward" else _TORCH
    return _USER if is_user_code(filename) else _OTHER


def _said(code: CodeType, number: int) -> str:
    """The line as "folder/file.py:12 function", the file relative to where Python found it."""
    known = _lines.get((id(code), number))
    if known is None:
        known = f"{short_path(code.co_filename)}:{number} {code.co_name}", code
        _lines[id(code), number] = known
    return known[0]
