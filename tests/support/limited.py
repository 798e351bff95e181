"""The command line in a forked child with limits of time and memory, and how it ended."""

import io
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass

import matplotlib.pyplot  # noqa: F401  here, not in each child
import torch  # noqa: F401

from profiler.cli import main


@dataclass(frozen=True)
class Ending:
    """How a verb ended: "ok", "one line", "usage", "traceback", "hang", "killed" or "several lines"."""

    kind: str
    error: str
    seconds: float


def run(command, most_seconds=10.0, most_bytes=2 << 30):
    """Run `profiler` with these words in a fork of this process."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as error:
        child = os.fork()
        if child == 0:
            _in_child(command, error, most_bytes)
        status = None
        while status is None and time.monotonic() - start < most_seconds:
            ended, code = os.waitpid(child, os.WNOHANG)
            status = code if ended else None
            time.sleep(0.002)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        error.seek(0)
        said = error.read().decode(errors="replace")
    return Ending(_kind(status, said), said, time.monotonic() - start)


def _in_child(command, error, most_bytes):
    code = 78
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(error.fileno(), 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), encoding="utf-8", write_through=True)
        with open("/proc/self/statm") as file:
            mapped_bytes = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + most_bytes,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            code = main(command)
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 2
        except BaseException:
            traceback.print_exc()
            code = 77
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _kind(status, said):
    if status is None:
        return "hang"
    if os.WIFSIGNALED(status):
        return "killed"
    code = os.WEXITSTATUS(status)
    if code in (77, 78):
        return "traceback"
    if code == 1:
        return "one line" if len(said.splitlines()) == 1 else "several lines"
    return {0: "ok", 3: "ok", 4: "ok", 2: "usage"}.get(code, f"exit code {code}")
