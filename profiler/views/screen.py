"""The one console that everything is printed to, and its tables.

What is printed may come from anywhere: names of modules and folders, frames of a recording, errors of a
user's code. It is shown as it is: no "[red]" in it is a colour, and no control character reaches a terminal.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from profiler.units import format_bytes

_WIDTH = 150  # of a file or a pipe, which has none to keep to

# Control characters but for newline and tab, and those that turn the direction of text.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_IN_ASCII = {"×": "x", "→": "->", "−": "-", "√": "sqrt", "…": "...", "³": "^3", "±": "+-"}


def plain(text: str) -> str:
    """The text with control characters written out, as in "\\x1b"."""
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


class _Screen(Console):
    """A console that takes strings as they are; style is in `styled` and in arguments."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(plain(text), **{**how, "markup": False, "emoji": False})


def console() -> Console:
    """What to print on: as wide as the terminal, or `_WIDTH` where there is none."""
    screen = _Screen(markup=False, highlight=False, emoji=False)
    return screen if screen.is_terminal else _Screen(width=_WIDTH, markup=False, highlight=False, emoji=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """One text of parts, each a string or a (string, style)."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((plain(text), style) for text, style in pairs))


def table(*columns: str | Column, title: str = "", lines: bool = True) -> Table:
    """An empty table; a column given by its name holds words, which are never cut off."""
    shown = [Column(name, overflow="fold") if isinstance(name, str) else name for name in columns]
    bold = {"title_justify": "left", "title_style": "bold"}
    look: dict[str, Any] = bold if lines else {**bold, "box": None, "padding": (0, 2, 0, 0)}
    return Table(*shown, title=title or None, **look)


def number(name: str = "") -> Column:
    """A column of numbers: to the right, in one line."""
    return Column(name, justify="right", no_wrap=True)


def rank_table(groups: Sequence[dict[str, Any]]) -> Table:
    """A line for ranks alike, the fullest first: their peaks, and what it is at that moment."""
    names = list(dict.fromkeys(name for group in groups for name in group["shares"]))
    columns = ["peak allocated", "peak reserved", *(name.replace("_", " ") for name in names)]
    ranks = table("ranks", *(number(column) for column in columns))
    for group in groups:
        peaks = (group["peak_allocated_bytes"], group["peak_reserved_bytes"])
        sizes = (*peaks, *(group["shares"].get(name, 0) for name in names))
        ranks.add_row(group["words"], *(format_bytes(size) for size in sizes))
    ranks.caption = "the fullest first; details of that one follow, of every rank with --all"
    return ranks


@contextmanager
def reading(path: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar over the bytes of a file, on a terminal; gives what is told how many are read.

    Of a folder it shows only that something goes on.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    to = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=to, transient=True, disable=not to.is_terminal) as progress:
        task = progress.add_task("", total=path.stat().st_size if path.is_file() else None)
        yield lambda read_bytes: progress.update(task, completed=read_bytes)


def print_to_any_terminal() -> None:
    """Let output in an encoding that lacks a character replace it, not raise UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="profiler.written_out")


def _written_out(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c, c.encode("ascii", "backslashreplace").decode()) for c in found), error.end


codecs.register_error("profiler.written_out", _written_out)
