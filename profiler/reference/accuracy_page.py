"""docs/accuracy.md: what predictions are worth on recorded GPUs, beside what others state of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.reference import accuracy

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """A recording's `about`, and the table of profiler.reference.accuracy.differences."""

    about: dict[str, Any]
    differences: pd.DataFrame


@dataclass(frozen=True)
class Claim:
    """What the authors of a predictor state, in their words, where, and under which conditions."""

    work: str
    words: str
    source: str
    conditions: str


CLAIMS = (
    Claim(
        "xMem (Middleware 2025)",
        "decreases the median relative error by 91%; reduces probability of estimation failure as safe OOM "
        "thresholds by 75%; 368% increase in memory conservation potential",
        "arXiv 2510.21048, abstract",
        "25 models, 5209 runs; relative to baselines, not absolute",
    ),
    Claim(
        "xMem, absolute figures",
        "median error: xMem 3.59%, DNNMem 13.82%, SchedTune 24.84%, LLMem 76.83%; failure probability "
        "8.87/53.67/50.55/65.77%; mean runtime xMem 24.17 s",
        "Stone-ResearchLife/xMem, plot/Figures in Paper.ipynb, cell output of 2025-05-07",
        "the authors' intermediate notebook, not checked against the final paper; truth is NVML",
    ),
    Claim(
        "VeritasEst",
        "reduces the relative error by 84% and lowers the estimation failure probability by 73%",
        "arXiv 2504.03887, abstract",
        "CNNs; relative to baselines",
    ),
    Claim(
        "DNNMem (ESEC/FSE 2020)",
        "effective in estimating GPU memory consumption",
        "abstract",
        "5 models; no figure in the abstract; xMem measured it again at 13.82% median",
    ),
    Claim(
        "LLMem (IJCAI 2024)",
        "error rates of up to 1.6% on a single GPU; average error rate of 3.0% for >1B LLMs multi-GPU",
        "arXiv 2404.10933, abstract; README",
        "truth is torch's peak + (nvml − GPUtil) offset; xMem measured it again at 76.83% median",
    ),
    Claim(
        "SchedTune (CCGrid 2022)",
        "81% higher GPU memory utilization, 100% detection and avoidance of OOM errors, 17.5% reduction in "
        "makespan",
        "README, abstract",
        "a scheduler's metrics; xMem measured its memory error at 24.84% median",
    ),
    Claim(
        "GPUMemNet",
        "class accuracy, e.g. 0.9886 in the first fold of the transformer model on MLP data",
        "arXiv 2602.17817; itu-rad repository, k_fold_results/transformer_model/mlp.json",
        "a classifier over ranges of 1 GiB to 8 GiB, not bytes",
    ),
)


_HEADINGS = (
    "quantity",
    "predictor",
    "count",
    "exact",
    "median of absolute errors, %",
    "min %",
    "max %",
    "over",
    "worst %",
    "under",
    "worst %",
)


MARKS = ("<!-- generated: begin -->\n", "<!-- generated: end -->\n")


def put_into(page: str, text: str) -> str:
    """The page with `text` between its marks; a page without marks is replaced by it."""
    if not all(mark in page for mark in MARKS):
        return text
    before, _, rest = page.partition(MARKS[0])
    return before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2]


def accuracy_page(results: Sequence[Result]) -> str:
    """What is generated of the page, in Markdown."""
    parts = [
        "# The reference suite, in figures",
        "",
        "Written by `profiler compare-reference results --page docs/accuracy.md`; do not edit.",
        "",
        "An error is predicted minus measured, in percent of the measured value, of quantities that",
        "torch's allocator reports (`torch.cuda.memory_stats`): allocated and reserved, their peaks in a",
        "phase, and the peaks of a whole run. Over-prediction wastes memory and under-prediction runs out",
        "of it, so both stand apart.",
        "",
        "## Against recordings of the reference suite",
        "",
        *(line for result in results for line in _recorded(result)),
    ]
    if not results:
        parts += [
            "**No recording of the reference suite on a GPU has been made yet, so this page has no figure of",
            "ours.** The suite, the recorder, the comparison and the tests are complete, and rehearsed on",
            "simulated GPUs; a rehearsal says nothing about accuracy. One command on a machine with a GPU",
            "makes the recording: [reference_recording.md](reference_recording.md).",
            "",
            "Against memory traces that others recorded on GPUs: [accuracy_traces.md](accuracy_traces.md).",
            "",
        ]
    parts += [
        "## What others state",
        "",
        "In the words of their sources. The conditions differ: other models, other settings, other truths",
        "(whole-GPU NVML readings include the CUDA context; the allocator's figures do not). None of these",
        "tools was run here.",
        "",
        "| work | stated | source | conditions |",
        "|---|---|---|---|",
        *(f"| {c.work} | “{c.words}” | {c.source} | {c.conditions} |" for c in CLAIMS),
    ]
    return "\n".join(parts) + "\n"


def _recorded(result: Result) -> list[str]:
    about, differences = result.about, result.differences
    versions = [
        f"{name} {about[key]}"
        for name, key in (("torch", "torch_version"), ("CUDA", "cuda_version"), ("driver", "driver_version"))
        if about[key]
    ]
    lines = [
        f"### {about['device_name']}",
        "",
        f"{', '.join(versions)}, {differences['run_key'].nunique()} runs, recorded {about['recorded_at']}.",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        "|---" * len(_HEADINGS) + "|",
    ]
    for row in accuracy.spread(differences, ["quantity", "source"]).to_dict("records"):
        signed = [f"{row[name]:+.3f}" for name in ("min", "max")]
        cells = [
            row["quantity"],
            row["source"],
            row["count"],
            row["exact"],
            f"{row['median_size']:.3f}",
            *signed,
        ]
        for side in ("over", "under"):
            cells += [row[side], f"{row[f'worst_{side}']:+.3f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]
