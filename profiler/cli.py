"""The command line: `profiler VERB`, where a verb is a module of profiler.verbs.

Those modules import what is heavy when they run, so that --help is quick.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from profiler.errors import ProfilerError, first_line
from profiler.verbs import (
    compare_engines,
    compare_reference,
    diff,
    explain,
    fit,
    list,
    on,
    predict,
    record_reference,
    replay,
    report,
    run,
    show,
    sweep,
    techniques,
)
from profiler.version import __version__
from profiler.views.screen import plain, print_to_any_terminal

# What the loader of libraries, the system, and Python say.
_NO_MEMORY = (
    "failed to map segment",
    "Cannot allocate memory",
    "can't start new thread",
    "error return without exception set",
)


class Verb(Protocol):
    """What a module of profiler.verbs has."""

    __name__: str
    SUMMARY: str  # for `profiler --help`
    DESCRIPTION: str  # for its own --help
    EXAMPLES: str

    @property
    def add_options(self) -> Callable[[argparse.ArgumentParser], None]: ...

    @property
    def run(self) -> Callable[[argparse.Namespace], int | None]: ...


_GROUPS: dict[str, tuple[Verb, ...]] = {
    "your model": (on, predict, fit, sweep, techniques, report),
    "files": (diff, explain, replay),
    "experiments": (run, list, show),
    "reference": (record_reference, compare_reference, compare_engines),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    0, or 1 after a one-line error (argparse exits with 2 itself), or the verb's own: 3 for a run that does
    not fit the GPU, 4 for a replay that differs. 130 after Ctrl-C, 141 where nobody reads the output.
    """
    print_to_any_terminal()
    try:
        _stop_once()
        words = tuple(sys.argv[1:] if arguments is None else arguments)
        own, command = on.split(words)
        options = _parser().parse_args(own)
        options.words, options.command = words, command
        code = options.verb(options)
        sys.stdout.flush()
    except ProfilerError as error:
        print(f"profiler: {plain(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # as in `profiler list | head -1`; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (MemoryError, ImportError, OSError, RuntimeError, SystemError) as error:
        if (problem := _without_memory(error)) is None:
            raise
        print(f"profiler: too little memory ({problem}); is it limited, as by ulimit -v?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprofiler: stopped; what had finished is kept", file=sys.stderr)
        return 130
    return code or 0


def _without_memory(error: BaseException | None) -> str | None:
    """What says that there was no memory, for data, a library or a thread; None if nothing does."""
    while error is not None:
        if isinstance(error, MemoryError):
            return first_line(error)
        for words in _NO_MEMORY:
            if words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return None


def _stop_once() -> None:
    """The first Ctrl-C stops; those that follow while the rest is put away do nothing."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="profiler",
        usage="profiler [-h] [--version] VERB ...",
        description="Every byte of a training step: measured, predicted, explained.",
        epilog=_groups(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"profiler {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", help=argparse.SUPPRESS, prog="profiler")
    for group in _GROUPS.values():
        for verb in group:
            one = verbs.add_parser(_name(verb), description=verb.DESCRIPTION, epilog=verb.EXAMPLES)
            verb.add_options(one)
            one.set_defaults(verb=verb.run)
    return parser


def _name(verb: Verb) -> str:
    return verb.__name__.rpartition(".")[2].replace("_", "-")


def _groups() -> str:
    width = max(len(_name(verb)) for group in _GROUPS.values() for verb in group) + 2
    return "\n\n".join(
        "\n".join([f"{title}:", *(f"  {_name(verb):{width}}{verb.SUMMARY}" for verb in group)])
        for title, group in _GROUPS.items()
    )
