"""The command `profiler`. Ctrl-C is one line from the first import on; profiler.cli does the rest."""

import os
import signal
import sys
from typing import NoReturn


def command() -> int:
    """What profiler.cli does with the words of the command line; its exit code."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _stop)
    from profiler.cli import main

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return main()
    except KeyboardInterrupt:  # before it listened
        _stop()


def _stop(*_: object) -> NoReturn:
    """While libraries are imported there is nothing to put away, and many catch what is raised in them."""
    os.write(2, b"\nprofiler: stopped; what had finished is kept\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(command())
