"""`profiler predict`: what a training step takes of a GPU that is not there, to the byte, and why."""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from profiler.errors import ProfilerError
from profiler.formula.per_phase import phase_terms
from profiler.formula.terms import PhaseTerms
from profiler.gpu.cards import GPU
from profiler.gpu.device_used import device_used_terms, in_total
from profiler.records.table import Row, append
from profiler.trace.moments import Share
from profiler.units import format_bytes
from profiler.verbs import options as words
from profiler.views import screen
from profiler.workload import Workload

if TYPE_CHECKING:
    from profiler.trace.moments import Moment
    from profiler.trace.run import OutOfMemory, PhaseMeasurement, Run

SUMMARY = "what a training step takes of a GPU, without the GPU"
DESCRIPTION = "Run a training step on a GPU that need not be there. Exit code 3: it does not fit."
EXAMPLES = (
    "examples: profiler predict gpt2 --batch 8 --length 512 --gpu A100-40GB; "
    "profiler predict train.py:make_model --batch 32; profiler predict --loop train.py:main"
)
_MODULES_SHOWN = 12
_NAME_LENGTH = 200  # of a file, below the 255 that systems allow


def add_options(parser: ArgumentParser) -> None:
    """A model or a loop, the GPU for it, and what to keep."""
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("model", nargs="?", metavar="TARGET", help=words.MODEL)
    words.add_loop(either)
    words.add_prediction_options(parser)
    words.add_settings(parser)
    parser.add_argument(
        "--terms",
        action="store_true",
        help="print the formula too: each term with its expression and source",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write a timeline figure and records there"
    )


def run(options: Namespace) -> int:
    """Predict, print what was found, keep it under `output`; returns the exit code, DOES_NOT_FIT or 0.

    Raises ProfilerError for an unknown GPU, allocator setting or model, and for what cannot be run.
    """
    if options.loop:
        words.refuse(options, ("terms",), f"is for a model; there is no formula of {options.loop}")
    with redirect_stdout(sys.stderr) if options.json else nullcontext():  # what a user's program prints
        prediction = words.predicted(options)
    formula, terms, no_formula = _formula(prediction)
    report = _report(prediction, formula)
    report["formula"] = [phase.to_dict() for phase in terms]
    report["no_formula"] = no_formula
    written = _write(prediction, options.output, formula) if options.output else []
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _show(report, written)
        words.say_what_it_rests_on(prediction, options.engine)
        if no_formula:
            screen.console().print(no_formula, style="yellow", soft_wrap=True)
        if options.terms:
            _show_terms(report["formula"])
    return words.DOES_NOT_FIT if prediction.out_of_memory else 0


def _formula(run: Run) -> tuple[list[Row], list[PhaseTerms], str]:
    """What both formulas say, as records; the terms of the one of phases; or why there is none."""
    from profiler.runs.rows import formula_rows

    workload, gpu = run.workload, run.device.gpu
    assert gpu is not None
    if workload is None:
        return [], [], ""
    try:
        facts = words.facts(workload, gpu)
    except ProfilerError as error:
        return [], [], str(error)
    return list(formula_rows(workload, facts, "cuda")), phase_terms(workload, facts, "cuda"), ""


# --- what was found, as plain data ---------------------------------------------------------------------


def _report(run: Run, formula: list[Row]) -> dict[str, Any]:
    peak, gpu = run.peak(), run.device.gpu
    assert gpu is not None
    allocation = peak.allocation
    said = {row["phase_index"]: row for row in formula if row["source"] == "formula"}
    phases = zip(run.phases, run.peaks(), strict=True)
    return {
        "target": run.workload.to_dict() if run.workload is not None else run.name,
        "target_in_words": run.name,
        "parameters": run.parameters,
        "assumed": run.assumed,
        "engine": run.device.kind,
        "rests_on": list(run.rests_on),
        "gpu": gpu.name,
        "gpu_bytes": gpu.memory_bytes,
        "allocator_settings": run.allocator_settings,
        "outcome": "ok" if run.fits else "out_of_memory",
        "out_of_memory": _stopped(run.out_of_memory) if run.out_of_memory else None,
        "phases": [_phase(*phase, said.get(index, {})) for index, phase in enumerate(phases)],
        "device_used": _device_used_report(gpu, run.needed_bytes),
        "peak_reserved_bytes": run.needed_bytes,
        "peak": {
            "phase": str(peak.phase),
            "allocated_bytes": peak.allocated_bytes,
            "reserved_bytes": peak.reserved_bytes,
            "fragmentation_bytes": peak.fragmentation_bytes,
            "op": allocation.op if allocation else "",
            "op_bytes": allocation.requested_bytes if allocation else 0,
            "module": allocation.where.module if allocation and allocation.where else "",
            "line": allocation.where.line if allocation and allocation.where else "",
            "categories": run.by_category(),
            "modules": [_share(share) for share in run.by_module()],
        },
    }


def _device_used_report(gpu: GPU, reserved_bytes: int) -> dict[str, Any]:
    terms = device_used_terms(gpu, reserved_bytes)
    return {**asdict(in_total(terms, "device used")), "terms": [asdict(term) for term in terms]}


def _share(share: Share) -> dict[str, Any]:
    return {"module": share.name, "bytes": share.size_bytes, "modules": share.modules}


def _stopped(stopped: OutOfMemory) -> dict[str, Any]:
    request = stopped.request
    where = request.where if request else None
    return {
        "phase": str(stopped.phase),
        "message": stopped.message,
        "requested_bytes": request.requested_bytes if request else None,
        "allocated_bytes": request.allocated_bytes if request else None,
        "reserved_bytes": request.reserved_bytes if request else None,
        "op": request.op if request else "",
        "module": where.module if where else "",
        "line": where.line if where else "",
    }


def _phase(phase: PhaseMeasurement, peak: Moment, formula: Row) -> dict[str, Any]:
    return {
        "phase": str(phase.account.phase),
        "allocated_bytes": phase.allocated_bytes,
        "formula_bytes": formula.get("allocated_bytes"),
        "peak_allocated_bytes": phase.peak_allocated_bytes,
        "formula_peak_bytes": formula.get("peak_allocated_bytes"),
        "reserved_bytes": phase.reserved_bytes,
        "peak_reserved_bytes": phase.peak_reserved_bytes,
        "fragmentation_at_peak_bytes": peak.fragmentation_bytes,
    }


# --- on screen -----------------------------------------------------------------------------------------


def _show(report: dict[str, Any], written: list[Path]) -> None:
    console = screen.console()
    capacity = format_bytes(report["gpu_bytes"])
    where = f" on a {report['engine']} {report['gpu']} ({capacity})"
    console.print(screen.styled((report["target_in_words"], "bold"), where))
    counted = f"{report['parameters']:,} parameters" if report["parameters"] else ""
    about = "; ".join(words_of for words_of in (counted, report["assumed"]) if words_of)
    if about:
        console.print(f"  {about}", soft_wrap=True)
    console.print(_phase_table(report))
    peak = report["peak"]
    console.print(
        screen.styled(
            ("Peak", "bold"),
            f": {format_bytes(peak['allocated_bytes'])} ({peak['allocated_bytes']:,} B)"
            f" allocated in {peak['phase']}, {format_bytes(report['peak_reserved_bytes'])} reserved at most",
        )
    )
    used = report["device_used"]
    parts = ", ".join(f"{format_bytes(term['typical_bytes'])} {term['name']}" for term in used["terms"])
    console.print(
        f"  nvidia-smi would show about {format_bytes(used['typical_bytes'])}"
        f" ({format_bytes(used['low_bytes'])} to {format_bytes(used['high_bytes'])}): {parts}",
        soft_wrap=True,
    )
    if peak["op"]:
        console.print(
            f"  made by {peak['op']} ({format_bytes(peak['op_bytes'])})"
            + (f" in {peak['module']}" if peak["module"] else "")
            + (f", {peak['line']}" if peak["line"] else ""),
            soft_wrap=True,
        )
    console.print(_share_table("category", peak["categories"].items(), peak["allocated_bytes"]))
    modules = [
        (f"{m['module']}  × {m['modules']}" if m["modules"] > 1 else m["module"], m["bytes"])
        for m in peak["modules"]
    ]
    shown, rest = modules[:_MODULES_SHOWN], modules[_MODULES_SHOWN:]
    if rest:
        shown.append((f"{len(rest)} more", sum(size_bytes for _, size_bytes in rest)))
    console.print(_share_table("module", shown, peak["allocated_bytes"]))
    for path in written:
        console.print(f"  {path}", soft_wrap=True)
    failed = report["out_of_memory"]
    if failed:
        requested, allocated, reserved = (
            format_bytes(failed[f"{name}_bytes"]) for name in ("requested", "allocated", "reserved")
        )
        console.print(
            screen.styled(
                ("out of memory", "bold yellow"),
                f" in {failed['phase']}: {failed['op']} asked for {requested}; allocated {allocated},"
                f" reserved {reserved} of {capacity}",
            )
        )
        place = ", ".join(word for word in (failed["module"], failed["line"]) if word)
        if place:
            console.print(f"  in {place}", soft_wrap=True)


def _show_terms(phases: list[dict[str, Any]]) -> None:
    """The formula, a table a phase: its terms add up to the level at the end, and to the peak."""
    for phase in phases:
        end, peak = (format_bytes(phase[name]) for name in ("end_bytes", "peak_bytes"))
        title = f"{phase['phase']} by formula: {end} at its end, at least {peak} at its peak"
        table = screen.table(
            "category", "expression", screen.number("bytes"), "alive at", "source", title=title
        )
        for term in phase["terms"]:
            size = f"{term['size_bytes']:,}"
            words_of = (term["category"].replace("_", " "), term["expression"], size, term["alive_at"])
            table.add_row(*words_of, term["source"])
        screen.console().print(table)


def _phase_table(report: dict[str, Any]) -> Table:
    has_formula = any(phase["formula_bytes"] is not None for phase in report["phases"])
    columns = {
        "allocated": "allocated_bytes",
        **({"formula": "formula_bytes"} if has_formula else {}),
        "peak allocated": "peak_allocated_bytes",
        **({"formula peak": "formula_peak_bytes"} if has_formula else {}),
        "reserved": "reserved_bytes",
        "peak reserved": "peak_reserved_bytes",
        "fragmentation at peak": "fragmentation_at_peak_bytes",
    }
    table = screen.table("phase", *(screen.number(name) for name in columns))
    for phase in report["phases"]:
        cells = [phase[key] for key in columns.values()]
        table.add_row(phase["phase"], *["" if cell is None else format_bytes(cell) for cell in cells])
    return table


def _share_table(name: str, shares: Any, total_bytes: int) -> Table:
    numbers = (screen.number(column) for column in ("bytes", "", "%"))
    table = screen.table(f"{name} at the peak", *numbers)
    for label, size_bytes in shares:
        share = f"{100 * size_bytes / total_bytes:.1f}" if total_bytes else ""
        table.add_row(
            label.replace("_", " ") if name == "category" else label,
            f"{size_bytes:,}",
            format_bytes(size_bytes),
            share,
        )
    return table


# --- on disk -------------------------------------------------------------------------------------------


def _write(run: Run, folder: Path, formula: list[Row]) -> list[Path]:
    """The figure as PNG and SVG and, for a workload, its records; returns the paths."""
    from profiler.views.figures import style
    from profiler.views.figures.timeline import timeline

    assert run.device.gpu is not None
    name = _file_name(f"{run.name} {run.device.gpu.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProfilerError(
            f"cannot write to {folder} ({error.strerror}); choose another --output"
        ) from error
    style.use_style()
    paths = style.save(timeline(run), folder, f"timeline-{name}")
    if run.workload is not None:
        records = folder / "records.parquet"
        append(records, _rows(run, run.workload, formula))
        paths.append(records)
    return paths


def _file_name(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", Path(text).name.lower()).strip("-")[:_NAME_LENGTH]


def _rows(run: Run, workload: Workload, formula: list[Row]) -> list[Row]:
    """The records of the prediction and of the formulas, as a run on that GPU would have them."""
    from profiler.runs.provenance import device_class
    from profiler.runs.rows import completed, run_key, run_rows

    device, settings = device_class(run.device), run.allocator_settings
    key = run_key(workload, device, run.provenance)
    key = f"{key}-{_file_name(settings)}" if settings else key
    rows = [*formula, *run_rows(run, "simulation")]
    return completed(rows, "predict", workload, device, run.provenance, key)
