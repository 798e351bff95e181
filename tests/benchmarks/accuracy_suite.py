"""The simulated GPU against the virtual one over the suite: the figures and the picture of docs/accuracy.md.

    python -m tests.benchmarks.accuracy_suite                      # from what is kept
    python -m tests.benchmarks.accuracy_suite --simulate H100-80GB # first simulate what is not kept of a card
    python -m tests.benchmarks.accuracy_suite --simulate --again   # all runs and probes of all cards, an hour

What was simulated is kept in results/accuracy, a file a card with a row a run, and one with a row a probe;
--again simulates all again, as after a change of the rules. The virtual GPUs' are in results/virtual-*.

cuDNN's workspaces for convolutions are not modelled. So that the rest of a run that takes some is held
against something as well, its recording is played through the model of the allocator a second time without
the requests that only it makes inside convolutions.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from profiler.files import write_atomically
from profiler.gpu.allocator import AllocatorSettings, CachingAllocator
from profiler.gpu.cards import find_gpu
from profiler.reference.archive import Archive, read_recording
from profiler.reference.engines import NOT_MODELLED, operation_of
from profiler.reference.predictions import predict_probes, simulate
from profiler.reference.unmatched import compare_probes
from profiler.trace.alignment import align
from profiler.trace.events import Allocation, Entry, Free
from profiler.trace.load import read_run

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "results" / "accuracy"
PROBES = KEPT / "probes.csv"
PICTURE = ROOT / "docs" / "images" / "accuracy.png"
PEAKS = ("peak_allocated_bytes", "peak_reserved_bytes")
AT_ONCE = 8  # runs between two writes of what is kept
CONVOLVE = ("resnet", "vit")  # families of models


@dataclass(frozen=True)
class Simulated:
    """What is kept of a run; all None for one that neither engine runs, as with a kernel that refuses it.

    Attributes:
        peaks_bytes: allocated and reserved, simulated.
        without_bytes: both on the virtual GPU without the workspaces of convolutions.
        same_requests: whether all requests but those are the same, in the same order.
    """

    peaks_bytes: tuple[int, int] | None = None
    without_bytes: tuple[int, int] | None = None
    same_requests: bool | None = None

    def row(self) -> tuple[object, ...]:
        """As it is kept."""
        if self.peaks_bytes is None or self.without_bytes is None:
            return ("",) * 5
        return *self.peaks_bytes, *self.without_bytes, int(bool(self.same_requests))


COLUMNS = (*PEAKS, *(f"virtual_{peak}_without_workspaces" for peak in PEAKS), "same_requests")


@dataclass(frozen=True)
class Compared:
    """Both peaks of one run, allocated and reserved, on the virtual and the simulated GPU."""

    gpu: str
    words: str
    family: str
    virtual_bytes: tuple[int, int]
    simulated_bytes: tuple[int, int]
    without_bytes: tuple[int, int]
    same_requests: bool

    @property
    def exact(self) -> bool:
        """Whether both peaks are the same."""
        return self.virtual_bytes == self.simulated_bytes

    @property
    def exact_without(self) -> tuple[bool, bool]:
        """Of each peak, whether it is that of the virtual GPU without the workspaces of convolutions."""
        first, second = (a == b for a, b in zip(self.simulated_bytes, self.without_bytes, strict=True))
        return first, second

    @property
    def errors_percent(self) -> tuple[float, float]:
        """Of each peak: simulated - virtual, of the virtual one."""
        allocated, reserved = zip(self.simulated_bytes, self.virtual_bytes, strict=True)
        return _percent(*allocated), _percent(*reserved)

    @property
    def convolves(self) -> bool:
        """Whether the model has convolutions."""
        return self.family in CONVOLVE


def _percent(simulated_bytes: int, virtual_bytes: int) -> float:
    return 100 * (simulated_bytes - virtual_bytes) / virtual_bytes


def recordings() -> list[Archive]:
    """Those of the virtual GPUs."""
    return [read_recording(folder) for folder in sorted((ROOT / "results").glob("virtual-*"))]


def kept(recording: Archive) -> Path:
    """The file of what was simulated of a recording."""
    return KEPT / f"{recording.folder.parent.name.replace('virtual', 'simulated')}.csv"


def compared(recording: Archive, simulated: dict[str, Simulated]) -> list[Compared]:
    """The runs that were simulated, in the suite's order."""
    peaks = recording.records.groupby("run_key")[list(PEAKS)].max()
    assert recording.gpu is not None
    return [
        Compared(
            recording.gpu.name,
            str(case),
            case.workload.model.split("-")[0].removesuffix("50"),
            (int(peaks.loc[key, PEAKS[0]]), int(peaks.loc[key, PEAKS[1]])),
            run.peaks_bytes,
            run.without_bytes,
            bool(run.same_requests),
        )
        for key, case in recording.cases.items()
        if (run := simulated.get(key)) and run.peaks_bytes and run.without_bytes
    ]


def read_simulated(recording: Archive) -> dict[str, Simulated]:
    """What is kept, by run key."""
    path = kept(recording)
    if not path.exists():
        return {}
    found = {}
    with path.open(newline="") as file:
        for key, *cells in list(csv.reader(file))[1:]:
            numbers = [int(cell) for cell in cells if cell]
            found[key] = (
                Simulated((numbers[0], numbers[1]), (numbers[2], numbers[3]), bool(numbers[4]))
                if numbers
                else Simulated()
            )
    return found


def simulate_first(recording: Archive, count: int, known: dict[str, Simulated]) -> None:
    """Simulate those of the first runs that are not known; what is done is kept as it goes."""
    wanted = [key for key in list(recording.cases)[:count] if key not in known]
    for start in range(0, len(wanted), AT_ONCE):
        cases = {key: recording.cases[key] for key in wanted[start : start + AT_ONCE]}
        with tempfile.TemporaryDirectory() as traces:
            rows = simulate(replace(recording, cases=cases), Path(traces))
            for key, run in rows.groupby("run_key"):
                ran = run[run["outcome"] != "skipped"]
                known[str(key)] = (
                    _simulated(recording, str(key), ran, Path(traces)) if len(ran) else Simulated()
                )
        _keep(
            kept(recording),
            ("run_key", *COLUMNS),
            ((k, *known[k].row()) for k in recording.cases if k in known),
        )
        print(f"{min(start + AT_ONCE, len(wanted))} of {len(wanted)} simulated", flush=True)


def _simulated(recording: Archive, key: str, ran, traces: Path) -> Simulated:  # type: ignore[no-untyped-def]
    virtual = recording.records[recording.records["run_key"] == key]
    peaks, virtual_peaks = ((int(r[PEAKS[0]].max()), int(r[PEAKS[1]].max())) for r in (ran, virtual))
    first, second = recording.trace(key), read_run(traces / f"{key}.parquet").entries
    assert first is not None
    workspaces, same = set_apart(first, second)
    if not workspaces:
        return Simulated(peaks, virtual_peaks, same)
    settings = AllocatorSettings.parse(recording.cases[key].allocator_settings)
    assert played(first, settings) == virtual_peaks, (
        f"{key}: the recording is not what the allocator model says"
    )
    return Simulated(peaks, played([e for i, e in enumerate(first) if i not in workspaces], settings), same)


def set_apart(virtual: Sequence[Entry], simulated: Sequence[Entry]) -> tuple[set[int], bool]:
    """Places of requests that only the virtual GPU makes, in convolutions; whether all others are alike."""
    asked = [[(i, e) for i, e in enumerate(run) if isinstance(e, Allocation)] for run in (virtual, simulated)]
    sizes = [[entry.requested_bytes for _, entry in run] for run in asked]
    pairs = align(*sizes)
    matched = {first for first, _ in pairs}
    left = [entry for number, entry in enumerate(asked[0]) if number not in matched]
    workspaces = {place for place, entry in left if operation_of(entry.op) in NOT_MODELLED}
    return workspaces, len(workspaces) == len(left) and len(pairs) == len(asked[1])


def played(entries: Iterable[Entry], settings: AllocatorSettings) -> tuple[int, int]:
    """Both peaks, allocated and reserved, of a run's requests, by the allocator model on an empty device.

    The free of a block that is not in `entries` is passed over.
    """
    allocator = CachingAllocator(settings=settings)
    live: dict[int, int] = {}
    allocated = reserved = 0
    for entry in entries:
        if isinstance(entry, Allocation):
            live[entry.address] = allocator.malloc(entry.requested_bytes)
            allocated = max(allocated, allocator.allocated_bytes)
            reserved = max(reserved, allocator.reserved_bytes)
        elif isinstance(entry, Free):
            allocator.free(live.pop(entry.address, 0))
    return allocated, reserved


def _keep(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(",".join(map(str, row)) + "\n" for row in (header, *rows))
    write_atomically(path, lambda temporary: temporary.write_text(text))


PROBE = ("operation", "shape", "dtype", "option")


def read_probes() -> dict[str, list[tuple[str, ...]]]:
    """By GPU the rows that are kept: the probe in four words, whether its requests are the same, and whether
    they are without the workspaces of convolutions.
    """
    found: dict[str, list[tuple[str, ...]]] = {}
    if PROBES.exists():
        with PROBES.open(newline="") as file:
            for gpu, *row in list(csv.reader(file))[1:]:
                found.setdefault(gpu, []).append(tuple(row))
    return found


def simulate_probes(recording: Archive) -> None:
    """Hold all probes of a card against the rules and keep which are the same."""
    assert recording.gpu is not None
    table = compare_probes(recording.probes(), predict_probes(recording))
    rows = []
    for row in table.itertuples():
        is_left = row.operation in NOT_MODELLED and len(align(row.measured, row.predicted)) == len(
            row.predicted
        )
        words = (str(getattr(row, name)) for name in PROBE)
        rows.append((*words, str(int(row.exact)), str(int(row.exact or is_left))))
    known = {**read_probes(), recording.gpu.name: rows}
    _keep(
        PROBES,
        ("gpu", *PROBE, "same_requests", "same_without_workspaces"),
        ((gpu, *row) for gpu in known for row in known[gpu]),
    )


def draw(runs: list[Compared]) -> None:
    """A dot a run, by family: the error of either peak."""
    import matplotlib.pyplot as plt
    import numpy as np

    from profiler.views.figures import style

    style.use_style()
    families = ("gpt2", "llama", "bert", "mlp", "vit", "resnet")
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.4), sharex=True, sharey=True)
    scatter = np.random.default_rng(0)
    for place, (axes, peak) in enumerate(zip(panels, ("allocated", "reserved"), strict=True)):
        for row, family in enumerate(families):
            errors = [run.errors_percent[place] for run in runs if run.family == family]
            heights = row + scatter.uniform(-0.25, 0.25, len(errors))
            axes.scatter(errors, heights, s=22, color=style.RED if family in CONVOLVE else style.BLUE)
        axes.set_xlabel(f"error of peak {peak}, %")
    names = [f"{family} ({sum(run.family == family for run in runs)})" for family in families]
    panels[0].set_yticks(range(len(families)), names)
    panels[0].invert_yaxis()
    plain, convolved = ([run for run in runs if run.convolves == sort] for sort in (False, True))
    worst = min((min(run.errors_percent) for run in convolved), default=0.0)
    exact = sum(run.exact for run in plain)
    cards = list(dict.fromkeys(run.gpu.removeprefix("NVIDIA ") for run in runs))
    style.headline(
        figure,
        f"Both peaks to the byte in {exact} of {len(plain)} runs without convolutions;\n"
        f"with convolutions (orange) up to {-worst:.0f} % too low",
        f"simulated against virtual: {', '.join(cards)}; a dot a run",
    )
    write_atomically(PICTURE, lambda path: figure.savefig(path, format="png", bbox_inches="tight", dpi=110))


def table_row(gpu: str, runs: Sequence[Compared], probes: Sequence[tuple[str, ...]]) -> str:
    """The counts of one card, as docs/accuracy.md has them."""
    plain, convolved = ([run for run in runs if run.convolves == sort] for sort in (False, True))
    allocated, reserved = (sum(run.exact_without[place] for run in convolved) for place in (0, 1))
    counts = [
        (sum(run.exact for run in plain), plain),
        (sum(run.exact for run in convolved), convolved),
        (allocated, convolved),
        (reserved, convolved),
        *((sum(row[place] == "1" for row in probes), probes) for place in (-2, -1)),
    ]
    cells = (f"{count} of {len(of)}" for count, of in counts)
    return f"| {gpu.removeprefix('NVIDIA ')} | {' | '.join(cells)} |"


def say(gpu: str, runs: Sequence[Compared], probes: Sequence[tuple[str, ...]]) -> None:
    """Each run that is not as on the virtual GPU, and the row of the card."""
    for run in runs:
        allocated, reserved = run.errors_percent
        words = "" if all(run.exact_without) else "; not by workspaces alone"
        if not run.exact:
            print(f"  {run.words}: {allocated:+.3f} % allocated, {reserved:+.3f} % reserved{words}")
        if not run.same_requests:
            print(f"  {run.words}: other requests")
    print(table_row(gpu, runs, probes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--simulate", nargs="*", metavar="GPU", help="of these cards; of all if none is named"
    )
    parser.add_argument("--first", type=int, metavar="N", help="only the first N runs")
    parser.add_argument("--again", action="store_true", help="what is kept as well")
    options = parser.parse_args()
    cards = None if options.simulate is None else {find_gpu(name).device_name for name in options.simulate}
    runs: list[Compared] = []
    for recording in recordings():
        assert recording.gpu is not None
        gpu = recording.gpu.name
        chosen = cards is not None and (not cards or gpu in cards)
        known = {} if options.again and chosen else read_simulated(recording)
        if chosen:
            simulate_probes(recording)
            simulate_first(recording, options.first or len(recording.cases), known)
        runs += (found := compared(recording, known))
        say(gpu, found, read_probes().get(gpu, []))
    draw(runs)


if __name__ == "__main__":
    main()
