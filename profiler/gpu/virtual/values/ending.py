"""The end of a program: PyTorch's autograd threads have come to rest before the interpreter is taken down.

A thread that still lets go of what a backward pass held, just after it has told the program that it is done,
would abort the process when it then needs Python's lock (torch 2.14). On a GPU kernels leave it time.
"""

import atexit
import time
from pathlib import Path

_LONGEST_SECONDS = 2.0
_TASKS = Path("/proc/self/task")


def rest_before_the_end() -> None:
    """Wait for them when the program ends."""
    atexit.register(_wait)


def _wait() -> None:
    until = time.monotonic() + _LONGEST_SECONDS
    calm = 0
    while calm < 3 and time.monotonic() < until:
        calm = calm + 1 if _at_rest() else 0
        time.sleep(0.001)  # and Python's lock is free for them


def _at_rest() -> bool:
    """Whether every autograd thread sleeps (proc(5): the state follows the name in parentheses)."""
    for task in _TASKS.iterdir():
        try:
            name, _, rest = (task / "stat").read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        if "pt_autograd" in name and rest.split()[0] != "S":
            return False
    return True
