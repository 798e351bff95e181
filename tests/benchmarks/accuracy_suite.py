"""The simulated GPU against the virtual one over the suite: the figures and the picture of docs/accuracy.md.

    python -m tests.benchmarks.accuracy_suite                 # draw from what is kept
    python -m tests.benchmarks.accuracy_suite --simulate 111  # first simulate the first 111 runs

What was simulated is kept in results/accuracy, a row a run; --again simulates all again, as after a change of
the rules. What the virtual GPU says is in results/virtual-nvidia-a100-sxm4-40gb.
"""

import argparse
import csv
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from profiler.files import write_atomically
from profiler.reference.archive import Archive, read_recording
from profiler.reference.predictions import simulate

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "results" / "virtual-nvidia-a100-sxm4-40gb"
KEPT = ROOT / "results" / "accuracy" / "simulated-a100.csv"
PICTURE = ROOT / "docs" / "images" / "accuracy.png"
PEAKS = ("peak_allocated_bytes", "peak_reserved_bytes")
AT_ONCE = 8  # runs between two writes of what is kept
CONVOLVE = ("resnet", "vit")  # families of models


@dataclass(frozen=True)
class Compared:
    """Both peaks of one run, allocated and reserved, on the virtual and the simulated GPU."""

    words: str
    family: str
    virtual_bytes: tuple[int, int]
    simulated_bytes: tuple[int, int]

    @property
    def exact(self) -> bool:
        """Whether both peaks are the same."""
        return self.virtual_bytes == self.simulated_bytes

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


# By run key both peaks; None for a run that neither engine runs, as with an attention kernel that refuses it.
Simulated = dict[str, tuple[int, int] | None]


def compared(recording: Archive, simulated: Simulated) -> list[Compared]:
    """The runs that were simulated, in the suite's order."""
    peaks = recording.records.groupby("run_key")[list(PEAKS)].max()
    return [
        Compared(
            str(case),
            case.workload.model.split("-")[0].removesuffix("50"),
            (int(peaks.loc[key, PEAKS[0]]), int(peaks.loc[key, PEAKS[1]])),
            both,
        )
        for key, case in recording.cases.items()
        if (both := simulated.get(key)) is not None
    ]


def read_simulated() -> Simulated:
    """What is kept."""
    if not KEPT.exists():
        return {}
    with KEPT.open(newline="") as file:
        rows = {row["run_key"]: (row[PEAKS[0]], row[PEAKS[1]]) for row in csv.DictReader(file)}
    return {key: (int(one), int(two)) if one else None for key, (one, two) in rows.items()}


def simulate_first(recording: Archive, count: int, known: Simulated) -> None:
    """Simulate those of the first runs that are not known; what is done is kept as it goes."""
    wanted = [key for key in list(recording.cases)[:count] if key not in known]
    for start in range(0, len(wanted), AT_ONCE):
        cases = {key: recording.cases[key] for key in wanted[start : start + AT_ONCE]}
        with tempfile.TemporaryDirectory() as traces:
            rows = simulate(replace(recording, cases=cases), Path(traces))
        for key, run in rows.groupby("run_key"):
            ran = run[run["outcome"] != "skipped"]
            known[str(key)] = tuple(int(ran[peak].max()) for peak in PEAKS) if len(ran) else None
        lines = [
            ",".join(map(str, (key, *(known[key] or ("", ""))))) + "\n"
            for key in recording.cases
            if key in known
        ]
        text = f"run_key,{','.join(PEAKS)}\n{''.join(lines)}"
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(KEPT, lambda temporary, text=text: temporary.write_text(text))
        print(f"{min(start + AT_ONCE, len(wanted))} of {len(wanted)} simulated", flush=True)


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
    worst = min(min(run.errors_percent) for run in convolved)
    exact = sum(run.exact for run in plain)
    style.headline(
        figure,
        f"Both peaks to the byte in {exact} of {len(plain)} runs without convolutions;\n"
        f"with convolutions (red) up to {-worst:.0f} % too low",
        "simulated A100-40GB against the virtual one; a dot a run",
    )
    write_atomically(PICTURE, lambda path: figure.savefig(path, format="png", bbox_inches="tight", dpi=110))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulate", type=int, default=0, metavar="N")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    recording = read_recording(RECORDING)
    known = {} if options.again else read_simulated()
    simulate_first(recording, options.simulate, known)
    runs = compared(recording, known)
    draw(runs)
    for run in runs:
        if not run.exact:
            allocated, reserved = run.errors_percent
            print(f"{run.words}: {allocated:+.3f} % allocated, {reserved:+.3f} % reserved")
    for sort, words in ((False, "without"), (True, "with")):
        chosen = [run for run in runs if run.convolves == sort]
        print(f"{words} convolutions: both peaks in {sum(run.exact for run in chosen)} of {len(chosen)}")


if __name__ == "__main__":
    main()
