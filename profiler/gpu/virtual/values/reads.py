"""What a program on the virtual GPU read back although it was not computed, as its processes wrote it
down.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_BYTES_AT_MOST = 64 << 20


@dataclass(frozen=True)
class FloatRead:
    """A line of the program at which the host read a value that depends on floats, which are not computed."""

    file: str  # "" where no Python ran: during backward
    line: int
    function: str
    text: str  # the line itself
    called_from: str  # file:line of the program, where the line above is a library's; "" where there is none
    operation: str  # item, copy to the host, nonzero, ...
    dtype: str
    count: int  # reads, over all processes
    changes_memory: bool  # whether what was read can be the size of a tensor
    assumption: str  # what the read was answered with

    @property
    def in_words(self) -> str:
        """With how often, and what it was answered with."""
        return f"{self} ({self.count}; {self.assumption})"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file else "during backward"
        return f"read back, not computed: {where} {self.text}".rstrip()


@dataclass(frozen=True)
class ProgramReads:
    """All of one run: the processes that followed values, and what they read that was not computed."""

    processes: tuple[int, ...]
    reads: tuple[FloatRead, ...]  # those that can change memory first, then by count
    not_followed: tuple[tuple[str, str], ...]  # (operation, why): its integer results are not true


def program_reads(folder: Path) -> ProgramReads:
    """Read the journals in `folder`. A last line that a crash cut short is left away."""
    processes: list[int] = []
    counts: dict[tuple[object, ...], int] = {}
    not_followed: dict[str, str] = {}
    for file in sorted(folder.glob("*.reads")):
        most: dict[tuple[object, ...], int] = {}
        for line in _lines(file):
            if "process" in line:
                processes.append(line["process"])
            elif "reason" in line:
                not_followed[line["operation"]] = line["reason"]
            else:
                place = tuple(line[name] for name in FloatRead.__dataclass_fields__ if name != "count")
                most[place] = max(most.get(place, 0), line["count"])
        for place, count in most.items():
            counts[place] = counts.get(place, 0) + count
    names = [name for name in FloatRead.__dataclass_fields__ if name != "count"]
    reads = [
        FloatRead(**dict(zip(names, place, strict=True)), count=count)  # type: ignore[arg-type]
        for place, count in counts.items()
    ]
    reads.sort(key=lambda read: (not read.changes_memory, -read.count, read.file, read.line))
    return ProgramReads(tuple(processes), tuple(reads), tuple(sorted(not_followed.items())))


def _lines(file: Path) -> Iterator[dict]:
    with file.open("rb") as journal:
        for text in journal.read(FILE_BYTES_AT_MOST).splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line
