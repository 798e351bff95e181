"""Predicted against recorded peaks of real CUDA runs, and of published single operations.

Run: PYTHONPATH=. python tests/benchmarks/accuracy_traces.py [FOLDER] [--only PART] [--write DOCUMENT]

FOLDER holds `snapshots/` and `published/`; by default $PROFILER_GROUNDTRUTH. Prints each row when it is known
(about five minutes in all); `--write` puts the tables into the document.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from profiler.gpu.simulated.device import register
from tests.support.recorded.comparison import Outcome, matched_events, recorded, simulated
from tests.support.recorded.programs import TRACES, Trace
from tests.support.recorded.published import published, simulated_peak_bytes

MARKS = ("<!-- generated: begin -->\n", "<!-- generated: end -->\n")


@dataclass(frozen=True)
class Result:
    trace: Trace
    file: str
    predicted: Outcome
    measured: Outcome

    @property
    def is_exact(self) -> bool:
        ours, theirs = self.predicted, self.measured
        return (ours.peak_allocated_bytes, ours.peak_reserved_bytes) == (
            theirs.peak_allocated_bytes,
            theirs.peak_reserved_bytes,
        )

    def cells(self) -> list[str]:
        ours, theirs = self.predicted, self.measured
        matched, events = matched_events(ours, theirs), len(theirs.events)
        return [
            f"`{self.file}`",
            self.trace.ran,
            f"{self.trace.gpu}, torch {'.'.join(map(str, self.trace.torch_version))}",
            *_compared(ours.peak_allocated_bytes, theirs.peak_allocated_bytes),
            *_compared(ours.peak_reserved_bytes, theirs.peak_reserved_bytes),
            f"all {events:,}" if ours.events == theirs.events else f"{matched:,} of {events:,}",
        ]


def _compared(predicted_bytes: int, measured_bytes: int) -> list[str]:
    error = predicted_bytes - measured_bytes
    shown = "0" if error == 0 else f"{error:+,} ({100 * error / measured_bytes:+.3f} %)"
    return [f"{predicted_bytes:,}", f"{measured_bytes:,}", shown]


def traces(folder: Path, only: str) -> Iterator[Result]:
    for trace in TRACES:
        if only in trace.file:
            path = min(folder.glob(trace.file))  # of several recordings of one program, one
            name = f"{path.parent.name.split('+')[0]}/{path.name.split('__')[-1]}".removesuffix(".pickle.xz")
            yield Result(trace, name, simulated(trace), recorded(path))


def operations(table: Path, only: str) -> Iterator[list[str]]:
    rows = [row for row in published(table) if only in row.name]
    for name, mode in dict.fromkeys((row.name, row.mode) for row in rows):
        tried = [row for row in rows if (row.name, row.mode) == (name, mode)]
        errors = [simulated_peak_bytes(row) - row.peak_bytes for row in tried]
        missed = sorted({error for error in errors if error})
        yield [
            name,
            mode,
            str(len(tried)),
            str(errors.count(0)),
            ", ".join(f"{error:+,}" for error in missed) or "-",
        ]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _summary(results: list[Result], rows: list[list[str]]) -> str:
    pairs = [(result.predicted, result.measured) for result in results]
    allocated = sum(ours.peak_allocated_bytes == theirs.peak_allocated_bytes for ours, theirs in pairs)
    events = sum(ours.events == theirs.events for ours, theirs in pairs)
    tried, exact = (sum(int(cells[column]) for cells in rows) for column in (2, 3))
    return (
        f"{len(results)} runs: both peaks exact to the byte in {sum(r.is_exact for r in results)}, peak "
        f"allocated in {allocated}, every event in order in {events}. "
        f"Operations: {exact} of {tried} rows exact.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("PROFILER_GROUNDTRUTH", Path(__file__).parents[3] / "shared" / "groundtruth")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(default))
    parser.add_argument("--only", default="", help="a part of the names to run")
    parser.add_argument("--write", type=Path, help="the document to put the tables into")
    arguments = parser.parse_args()
    register()
    results = []
    for result in traces(arguments.folder / "snapshots", arguments.only):
        results.append(result)
        print(" | ".join(result.cells()), flush=True)
    rows = []
    for cells in operations(arguments.folder / "published" / "liger_kernel_memory_rows.csv", arguments.only):
        rows.append(cells)
        print(" | ".join(cells), flush=True)
    summary = _summary(results, rows)
    print(summary)
    if arguments.write:
        peaks = ["predicted", "recorded", "error"]
        header = ["file", "what ran", "simulated as", *[f"{p} peak allocated" for p in peaks[:2]], "error"]
        header += [*[f"{p} peak reserved" for p in peaks[:2]], "error", "events in order"]
        generated = summary + "\n" + table(header, [result.cells() for result in results])
        generated += "\n" + table(
            ["operation", "mode", "rows tried", "exact", "errors of the others (bytes)"], rows
        )
        before, _, rest = arguments.write.read_text().partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        arguments.write.write_text(before + MARKS[0] + generated + MARKS[1] + after)


if __name__ == "__main__":
    main()
