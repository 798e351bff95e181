"""Recording the reference on one device: a fresh process a run, until all is done or the time is over."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from profiler.device import SIMULATED, Device
from profiler.errors import ProfilerError
from profiler.files import write_atomically, write_table
from profiler.records import table as records
from profiler.reference import probes
from profiler.reference.archive import read_about, read_probes
from profiler.reference.suite import Case, cases
from profiler.runs.execute import run_in_fresh_process
from profiler.runs.processes import in_fresh_process
from profiler.runs.provenance import ask_device
from profiler.runs.rows import completed, run_rows, skipped_row
from profiler.trace.phase import phases

FOLDER = "reference"
PROBES_SECONDS = 240.0  # for all of them: far more than they should take
# They change what the allocator is asked for, and a prediction would not know.
_MUST_BE_UNSET = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE",
)


@dataclass(frozen=True)
class Campaign:
    """What to record and where.

    Attributes:
        device: where.
        results: folder of results; the recording goes to its <device class>/reference.
        size: "quick" (one of each kind), "small" (tiny models) or "full".
        minutes: no run starts later than this.
    """

    device: Device
    results: Path
    size: str = "full"
    minutes: float = 9.0


PROBES = "kernel probes"


@dataclass(frozen=True)
class Progress:
    """One run, or the kernel probes: which, of how many to be done, in what time, and how it ended.

    `outcome` is one of profiler.records.table, "" while it is running.
    """

    name: str
    number: int
    total: int
    seconds: float = 0.0
    outcome: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Summary:
    """What a campaign left behind: runs of the suite recorded and in all, and whether time ran out."""

    folder: Path
    recorded: int
    total: int
    seconds: float
    time_was_over: bool


class _Recorder:
    """The state of one campaign on disk."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.about = ask_device(campaign.device)
        self.folder = campaign.results / self.about["device"] / FOLDER
        self.path = self.folder / "records.parquet"
        self.suite = {self.key(case): case for case in cases(campaign.size)}

    def key(self, case: Case) -> str:
        return f"{case.key}-{self.about['device']}-torch{self.about['torch_version']}"

    def todo(self) -> dict[str, Case]:
        """Runs without a record; one that failed for another reason than memory is tried again."""
        found = records.read(self.path)
        done = set(found.loc[found["outcome"] != "skipped", "run_key"])
        return {key: case for key, case in self.suite.items() if key not in done}

    def run(self, key: str, case: Case) -> tuple[str, str]:
        """Record one case; returns its outcome and the words that go with it."""
        try:
            run = run_in_fresh_process(case.workload, self.campaign.device, case.settings)
        except ProfilerError as error:
            rows = [skipped_row(0, phases(case.workload)[0], "measured", str(error))]
        else:
            if run.phases:
                run.save(self.folder / "traces" / f"{key}.parquet")
            rows = run_rows(run, "measured")
        records.append(self.path, self._completed(rows, key, case))
        last = rows[-1]
        return str(last["outcome"]), str(last["detail"] or "") if last["outcome"] != "ok" else ""

    def _completed(self, rows: list[records.Row], key: str, case: Case) -> list[records.Row]:
        about = {name: value for name, value in self.about.items() if name in records.COLUMNS}
        about["allocator_settings"] = case.allocator_settings or about["allocator_settings"]
        return completed(rows, FOLDER, case.workload, about["device"], about, key, str(case))

    def probes_done(self) -> bool:
        """Whether each probe of this size was recorded under this version of torch."""
        found = read_probes(self.folder)
        if found.empty:
            return False
        found = found[found["torch_version"] == self.about["torch_version"]]
        recorded = found[["operation", "shape", "dtype", "option"]].itertuples(index=False, name=None)
        return {probe.key for probe in probes.probes(self.campaign.size)} <= set(recorded)

    def run_probes(self) -> tuple[str, str]:
        """Record the probes; returns the outcome and the words that go with it."""
        import pandas as pd

        jobs = (probes.probes(self.campaign.size), self.campaign.device)
        try:
            name = f"the {PROBES}"
            rows = in_fresh_process(
                probes.requests_of_probes, *jobs, name=name, timeout_seconds=PROBES_SECONDS
            )
        except ProfilerError as error:
            return "skipped", str(error)
        table = pd.DataFrame(rows, columns=list(probes.COLUMNS))
        write_table(self.folder / "probes.parquet", table.assign(torch_version=self.about["torch_version"]))
        return "ok", ""

    def write_about(self, seconds: float) -> None:
        """What was recorded where; the cases of an earlier torch version stay in it."""
        path = self.folder / "about.json"
        before = read_about(self.folder) if path.exists() else {}
        described = {key: case.to_dict() for key, case in self.suite.items()}
        about = {
            **self.about,
            "recorded_seconds": round(before.get("recorded_seconds", 0) + seconds, 1),
            "cases": {**before.get("cases", {}), **described},
        }
        text = json.dumps(about, indent=1) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text))


def record_suite(
    campaign: Campaign, on_progress: Callable[[Progress], None] = lambda progress: None
) -> Summary:
    """Record what is not recorded yet, most informative first.

    Calls `on_progress` as each run begins and again when it has ended. Raises ProfilerError if there is no
    such device, the folder cannot be read or written, a simulated device would write among real results, or
    the environment says how memory is allocated.
    """
    started = time.perf_counter()
    if campaign.device.kind == SIMULATED and campaign.results.resolve() == Path("results").resolve():
        raise ProfilerError(
            "a rehearsal on a simulated GPU is no measurement: name another folder, as in --results "
            + tempfile.gettempdir()
            + "/rehearsal"
        )
    said = [name for name in _MUST_BE_UNSET if os.environ.get(name)]
    if said:
        raise ProfilerError(f"unset {', '.join(said)}: the suite sets what it needs")
    recorder = _Recorder(campaign)
    todo: list[tuple[str, Callable[[], tuple[str, str]]]] = []
    with _keeping(recorder.folder):
        recorder.write_about(0.0)
        missing = recorder.todo()
        if not recorder.probes_done():
            todo.append((PROBES, recorder.run_probes))
        todo += [(str(case), partial(recorder.run, key, case)) for key, case in missing.items()]
        ended = 0
        for number, (name, run) in enumerate(todo, start=1):
            if time.perf_counter() - started > 60 * campaign.minutes:
                break
            on_progress(Progress(name, number, len(todo)))
            begun = time.perf_counter()
            outcome, detail = run()
            on_progress(Progress(name, number, len(todo), time.perf_counter() - begun, outcome, detail))
            ended += name != PROBES
        seconds = time.perf_counter() - started
        recorder.write_about(seconds)
    done = len(recorder.suite) - len(missing) + ended
    return Summary(recorder.folder, done, len(recorder.suite), seconds, ended < len(missing))


@contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    """A full disk, say, is one line, and loses at most the run that was to be written."""
    try:
        yield
    except OSError as error:
        raise ProfilerError(f"stopped ({error}); what {folder} had before is kept") from error
