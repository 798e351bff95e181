"""Reads of values that were not computed, written down by the process that read them.

One file a process, one line of JSON a place and power of two of its reads, each written by one call: a crash
loses at most the exact count. `reads` opens it.
"""

import atexit
import json
import linecache
import os
import sys
from collections.abc import Callable
from types import FrameType

FOLDER = "PROFILER_VIRTUAL_READS"
_HERE = os.path.dirname(os.path.abspath(__file__))
_TORCH = os.path.dirname(os.path.abspath(sys.modules["torch"].__file__ or "")) + os.sep
_SAVING = os.path.join(_TORCH, "serialization.py")
_LIBRARIES = (
    os.sep + "site-packages" + os.sep,
    os.sep + "dist-packages" + os.sep,
    os.path.dirname(os.__file__) + os.sep,
)


class ReadsJournal:
    """The places of this process at which the host read what was not computed."""

    def __init__(self) -> None:
        self._folder: str | None = None  # until it is open, nothing is written
        self._counts: dict[tuple[object, ...], int] = {}
        self._lines: dict[tuple[object, ...], dict[str, object]] = {}

    def open(self) -> None:
        """Write to the folder that the environment names from now on."""
        self._folder = os.environ.get(FOLDER)
        if self._folder:
            self._write({"process": os.getpid()})
            atexit.register(self.close)
            os.register_at_fork(after_in_child=self._start_anew)

    def read(self, operation: str, dtype: str, assumption: str, changes_memory: bool) -> None:
        """One read by the host, from the line of Python that is running."""
        frame = _innermost(lambda file: not file.startswith((_TORCH, _HERE, "<")))
        place = (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)
        key = (*place, operation, dtype, assumption)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count == 1:
            program = _innermost(
                lambda file: not file.startswith((_TORCH, _HERE, "<")) and not _is_library(file)
            )
            self._lines[key] = {
                "file": place[0],
                "line": place[1],
                "function": frame.f_code.co_name if frame else "backward",
                "text": linecache.getline(*place).strip() if frame else "",
                "called_from": f"{program.f_code.co_filename}:{program.f_lineno}" if program else "",
                "operation": operation,
                "dtype": dtype,
                "assumption": assumption,
                # What goes into a file, whose bytes are whole numbers, is the size of nothing.
                "changes_memory": changes_memory and _innermost(lambda file: file == _SAVING) is None,
            }
        if count & (count - 1) == 0:
            self._write(self._lines[key] | {"count": count})

    def close(self) -> None:
        """Write the exact counts."""
        for key, count in self._counts.items():
            if count & (count - 1):
                self._write(self._lines[key] | {"count": count})

    def not_followed(self, operation: str, reason: str) -> None:
        """An operation whose result could not be computed on the CPU, once."""
        key = (operation, "not followed")
        if key not in self._counts:
            self._counts[key] = 0
            self._write({"operation": operation, "reason": reason})

    def _write(self, line: dict[str, object]) -> None:
        if not self._folder:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        try:
            file = os.open(os.path.join(self._folder, f"{os.getpid()}.reads"), flags, 0o600)
        except OSError:
            return
        try:
            os.write(file, (json.dumps(line) + "\n").encode())
        finally:
            os.close(file)

    def _start_anew(self) -> None:
        self._counts.clear()
        self._lines.clear()


def _innermost(wanted: Callable[[str], bool]) -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not wanted(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _is_library(file: str) -> bool:
    return any(part in file for part in _LIBRARIES)
