"""One run: what a training step or a program did to the memory of one device, whoever tells it.

A run that is measured, simulated, watched on a virtual GPU, recorded in a user's loop or read from a file is
the same `Run`; what its teller does not know is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from profiler.device import Device
from profiler.trace.events import Allocation, Entries, Mark, Place
from profiler.trace.file import Content, write_content
from profiler.trace.file_metadata import in_words
from profiler.trace.ledger import Account, account
from profiler.trace.moments import Moment, Share, by_category, by_line, by_module, moment_of_peak
from profiler.trace.phase import Phase
from profiler.trace.requests import Requests, requests_of
from profiler.trace.segments import Changes
from profiler.workload import Workload

CHANGES_MEMORY = "which can change memory"  # how what a run rests on ends, where it does

# What a file says of a run and of a phase in words; the rest is told by rows, an entry each.
VERSION = 1
OF_A_RUN = (
    *("device", "name", "workload", "out_of_memory", "refusals", "rests_on"),
    *("parameters", "assumed", "note", "provenance"),
)
OF_A_PHASE = ("seconds", "reading_seconds", "device_used_bytes", "memory_stats")

_ALL = Phase(0, "the recording")  # of a run without phases


@dataclass(frozen=True)
class PhaseMeasurement:
    """What was read when a phase ended.

    Attributes:
        account: bytes by category at the end and at the peak, from the allocation events.
        seconds: duration of the phase, device synchronized, reading excluded; None where nobody looked.
        reading_seconds: what the recorder itself took at the boundary.
        device_used_bytes: in use on the whole device (CUDA: mem_get_info, context and other processes
            included; CPU: resident memory of this process); None where the system does not tell.
        memory_stats: what is known of the allocator's own statistics, under torch's names, for the phase;
            empty on the CPU, which has no caching allocator.
    """

    account: Account
    seconds: float | None = None
    reading_seconds: float | None = None
    device_used_bytes: int | None = None
    memory_stats: Mapping[str, int] = field(default_factory=dict)

    @property
    def allocated_bytes(self) -> int:
        """At the end, by the allocator itself where it counts."""
        return self.memory_stats.get("allocated_bytes.all.current", self.account.end_bytes)

    @property
    def peak_allocated_bytes(self) -> int:
        """At the peak, by the allocator itself where it counts."""
        return self.memory_stats.get("allocated_bytes.all.peak", self.account.peak_bytes)

    @property
    def reserved_bytes(self) -> int | None:
        """Held by the allocator at the end; None without a caching allocator."""
        return self.memory_stats.get("reserved_bytes.all.current")

    @property
    def peak_reserved_bytes(self) -> int | None:
        """The most that the allocator held; None without a caching allocator."""
        return self.memory_stats.get("reserved_bytes.all.peak")

    @property
    def end(self) -> dict[str, int]:
        """Bytes by category at the end; what the allocator counts and no event shows is unattributed."""
        more = self.allocated_bytes - self.account.end_bytes
        return {**self.account.end, "unattributed": self.account.end["unattributed"] + more}

    @property
    def peak(self) -> dict[str, int]:
        """Bytes by category at the peak; see `end`."""
        more = self.peak_allocated_bytes - self.account.peak_bytes
        return {**self.account.peak, "unattributed": self.account.peak["unattributed"] + more}


@dataclass(frozen=True)
class Refusal:
    """A request that the device had no room for; bytes are those of the moment before, None if not told.

    `position` is that of the entry before it, -1 if it came before all; `op` is what asked, in words.
    """

    requested_bytes: int
    op: str
    where: Place | None
    position: int
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    free_bytes: int | None = None

    def __str__(self) -> str:
        return ", ".join(word for word in (self.op, *(self.where or ())) if word)


@dataclass(frozen=True)
class OutOfMemory:
    """The end of a run that did not fit: in which phase, what was said, and the request where it is known."""

    phase: Phase
    message: str
    request: Refusal | None


@dataclass(frozen=True)
class Run:
    """What one run did to one device.

    Attributes:
        device: where.
        name: what ran, in words; "" where a file does not say.
        entries: allocations and frees in order to the end of the last phase, with the ends of the phases.
        phases: one measurement a phase; after running out of memory, the last one is what there was.
        reserved_bytes: what the allocator held after each entry; empty where nobody looked.
        segment_changes: what the allocator took from the driver and gave back; empty where nobody looked.
        workload: what ran, None for a program or a loop of the user's own.
        out_of_memory: None for a run that came to its end.
        refusals: requests without room, in order: a program may go on after one.
        parameters: the model's number of them; None if not counted.
        assumed: what was guessed about the model, in words, or "".
        note: what is left open, in words, or "".
        rests_on: where the GPU is not there, what the program read that is not computed, with what it was
            answered, and what was called and is not modelled or was assumed; in words.
        provenance: which device, driver and versions, as the columns of records have them
            (profiler.records.table); empty where a file does not say.
    """

    device: Device
    name: str
    entries: Entries
    phases: tuple[PhaseMeasurement, ...] = ()
    reserved_bytes: Sequence[int] = ()
    segment_changes: Changes = field(default_factory=dict)
    workload: Workload | None = None
    out_of_memory: OutOfMemory | None = None
    refusals: tuple[Refusal, ...] = ()
    parameters: int | None = None
    assumed: str = ""
    note: str = ""
    rests_on: tuple[str, ...] = ()
    provenance: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether the run came to its end."""
        return self.out_of_memory is None

    @property
    def allocations(self) -> int:
        """How many blocks were handed out."""
        return sum(isinstance(entry, Allocation) for entry in self.entries)

    @property
    def allocator_settings(self) -> str:
        """As PYTORCH_ALLOC_CONF has them, "" for none."""
        return self.provenance.get("allocator_settings") or ""

    @property
    def retries(self) -> int:
        """How often the allocator had to give cached memory back to the device to go on."""
        return self.phases[-1].memory_stats.get("num_alloc_retries", 0) if self.phases else 0

    # --- the peak ---------------------------------------------------------------------------------------

    def peaks(self) -> list[Moment]:
        """The peak of each phase; of a run without phases, that of the whole."""
        return self._peaks

    def peak(self) -> Moment:
        """The first moment with the most allocated."""
        return max(self._peaks, key=lambda moment: moment.allocated_bytes)

    @cached_property
    def _peaks(self) -> list[Moment]:
        accounts = [phase.account for phase in self.phases] or account([*self.entries, Mark(_ALL, {})])
        return [moment_of_peak(each, self.entries, self.reserved_bytes) for each in accounts]

    @property
    def highest_phase(self) -> PhaseMeasurement:
        """The phase with the most allocated, the first of equals. Raises ValueError where there is none."""
        return max(self.phases, key=lambda phase: phase.peak_allocated_bytes)

    @property
    def peak_allocated_bytes(self) -> int:
        """The most allocated, by the allocator itself where it counts."""
        return self.highest_phase.peak_allocated_bytes if self.phases else self.peak().allocated_bytes

    @property
    def peak_reserved_bytes(self) -> int | None:
        """The most that the allocator took from the device; None without one (the CPU), or if not told."""
        said = [phase.peak_reserved_bytes for phase in self.phases]
        known = [size for size in said if size is not None]
        return max(known or self.reserved_bytes, default=None)

    @property
    def needed_bytes(self) -> int:
        """What decides whether it fits: the most reserved; the most allocated where nothing is reserved."""
        reserved_bytes = self.peak_reserved_bytes
        return self.peak_allocated_bytes if reserved_bytes is None else reserved_bytes

    # --- who owns what ----------------------------------------------------------------------------------

    def by_category(self, position: int | None = None) -> dict[str, int]:
        """Bytes by category just after the entry at `position`, by default at the peak."""
        if position is None and self.phases:
            highest = max((phase.account for phase in self.phases), key=lambda account: account.peak_bytes)
            return {category: size for category, size in highest.peak.items() if size}
        return by_category(self.entries, self._position(position))

    def by_module(self, position: int | None = None) -> list[Share]:
        """Bytes by module, layers of a list together, largest first; see `by_category`."""
        return by_module(self.entries, self._position(position))

    def by_line(self, position: int | None = None) -> dict[str, int]:
        """Bytes by the line that asked for them, else by op; see `by_category`."""
        return by_line(self.entries, self._position(position))

    def _position(self, position: int | None) -> int:
        return self.peak().position if position is None else position

    @cached_property
    def requests(self) -> Requests:
        """What it asked of the allocator, see profiler.trace.requests."""
        return requests_of(self.entries)

    def save(self, path: str | Path) -> None:
        """Write all of it to a file that `load`, `profiler report` and `profiler diff` read.

        Raises ProfilerError if the folder cannot be written.
        """
        phase_words = [in_words(phase, OF_A_PHASE) for phase in self.phases]
        run_words = in_words(self, OF_A_RUN, VERSION)
        content = Content(self.entries, self.reserved_bytes, self.segment_changes, phase_words, run_words)
        write_content(Path(path), content)


def until_last_phase(entries: Entries) -> int:
    """How many entries there are to the end of the last phase: what follows is the program's end.

    All of them, where there are no phases.
    """
    return max((i + 1 for i, e in enumerate(entries) if isinstance(e, Mark)), default=len(entries))


def phases_told_by(entries: Entries, reserved_bytes: Sequence[int]) -> tuple[PhaseMeasurement, ...]:
    """The phases as far as the events alone tell them."""
    found = []
    ends = [index for index, entry in enumerate(entries) if isinstance(entry, Mark)]
    for each, start, end in zip(account(entries), [0, *ends], ends, strict=False):
        statistics = {}
        if reserved_bytes:
            statistics["reserved_bytes.all.current"] = reserved_bytes[end]
            statistics["reserved_bytes.all.peak"] = max(reserved_bytes[start : end + 1])
        found.append(PhaseMeasurement(each, memory_stats=statistics))
    return tuple(found)
