"""`profiler on`: any program, as it is, on a GPU that is not there."""

from __future__ import annotations

import json
import os
import pickle
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.files import check_writable, write_atomically
from profiler.gpu.cards import GPU, find_gpu
from profiler.gpu.device_used import DeviceTerm, device_used_terms, in_total
from profiler.trace.events import Mark
from profiler.trace.segments import holes, segments_at
from profiler.units import format_bytes
from profiler.verbs.options import count_and_name, whole_number
from profiler.views import screen
from profiler.views.program import FITS, show_program

if TYPE_CHECKING:
    from profiler.distributed.lone_rank import LoneRank
    from profiler.distributed.ranks import RankMemory
    from profiler.gpu.virtual.card_file import VirtualGPUs
    from profiler.recording.virtual.program_run import ProgramProcess
    from profiler.runs.program import Watched
    from profiler.trace.run import PhaseMeasurement, Refusal, Run

SUMMARY = "any program, unmodified, on a GPU that is not there: what it takes, phase by phase"
DESCRIPTION = (
    "Run a command on a virtual GPU: the CUDA build of torch as it is, whose kernels do not run. Exit code: "
    "the program's. Needs Linux, a C compiler and a CUDA build of torch; no GPU."
)
EXAMPLES = (
    "examples: profiler on A100-80GB -- python train.py --batch 32; "
    "profiler on 2xH100-80GB --steps 3 -- torchrun --nproc-per-node 2 train.py"
)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own words, and the command after "--"."""
    words = list(arguments)
    if words[:1] != ["on"] or "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def add_options(parser: ArgumentParser) -> None:
    """The GPU, when to stop, and the files to write."""
    parser.usage = "profiler on GPU [options] -- COMMAND ..."
    parser.add_argument("gpu", metavar="GPU", help="a GPU's name, a card's file, or several as 2xH100-80GB")
    parser.add_argument("--steps", type=whole_number, metavar="N", help="end it after N training steps")
    parser.add_argument(
        "--rank", metavar="R", help="be rank R of --world-size N, alone; 0,3,6-7: one after the other"
    )
    parser.add_argument("--world-size", type=whole_number, metavar="N", help="ranks there would be")
    parser.add_argument(
        "--late-events",
        action="store_true",
        help="what other streams use comes back when the program waits for the GPU: the upper bound",
    )
    parser.add_argument("--all", action="store_true", help="print every phase")
    parser.add_argument("--json", action="store_true", help="print everything as JSON; its output to stderr")
    parser.add_argument("--report", type=Path, metavar="FILE", help="an HTML page of the largest process")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="the run of the largest process, for diff and report"
    )
    parser.add_argument(
        "--snapshot",
        type=Path,
        metavar="FILE",
        help="a memory snapshot of the largest process, for pytorch.org/memory_viz",
    )
    parser.add_argument("--ranks", type=Path, metavar="FILE", help="a picture of the ranks, png or svg")
    parser.add_argument(
        "--hide-real-gpu", action="store_true", help="run on the virtual GPU though a real one is here"
    )


def run(options: Namespace) -> int:
    """Run the command, then print and write what it took; the exit code is the command's.

    Raises ProfilerError for an unknown GPU, no command, and where there can be no virtual GPU.
    """
    from profiler.distributed.lone_rank import WITHOUT_PEERS, as_lone_rank
    from profiler.gpu.virtual.card_file import VirtualGPUs
    from profiler.runs.program import run_program, together

    command = getattr(options, "command", [])
    if not command:
        raise ProfilerError("no command: profiler on GPU -- COMMAND, as in `-- python train.py`")
    count, name = count_and_name(options.gpu)
    gpu = find_gpu(name)
    gpus = VirtualGPUs(gpu, count, events_wait=options.late_events)
    alone = _lone_ranks(options, count)
    if options.ranks and options.ranks.suffix not in (".png", ".svg"):
        raise ProfilerError(f"--ranks writes a .png or an .svg, not {options.ranks}")
    files = [path for path in (options.save, options.report, options.snapshot, options.ranks) if path]
    for path in files:
        if path.is_dir():
            raise ProfilerError(f"{path} is a folder: name a file in it")
        check_writable(path.parent)

    def watch(gpus: VirtualGPUs, inherited: Mapping[str, str] | None = None) -> Watched:
        return run_program(
            command,
            gpus,
            steps=options.steps or 0,
            hide_real_gpu=options.hide_real_gpu,
            stdout=sys.stderr if options.json else None,
            inherited=inherited,
            packages=(WITHOUT_PEERS,) if gpus.lone_rank else (),
        )

    several_runs = []
    for lone in alone:
        with as_lone_rank(lone, gpus) as (its_gpus, environment):
            several_runs.append(watch(its_gpus, environment))
    watched = together(several_runs) if alone else watch(gpus)
    report = _report(watched, gpu, command)
    not_written: ProfilerError | None = None
    if watched.processes:  # files first: whoever reads the rest may stop early, as `head` does
        largest = max((process.run for process in watched.processes), key=lambda run: run.needed_bytes)
        settings = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
        about = {"allocator_settings": settings}
        try:
            _write(replace(largest, name=" ".join(command), provenance=about), report, options)
        except ProfilerError as error:
            not_written = error
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show_program(report, options.all, screen.console())
    if not_written:
        raise not_written
    for path in files if watched.processes else ():
        print(path, file=sys.stderr if options.json else sys.stdout)
    return watched.exit_code


def _lone_ranks(options: Namespace, devices: int) -> list[LoneRank]:
    from profiler.distributed.lone_rank import LoneRank, ranks_in

    if options.rank is None and options.world_size is None:
        return []
    if options.rank is None or options.world_size is None:
        raise ProfilerError("--rank and --world-size go together: rank R of N, from 0")
    return [LoneRank(rank, options.world_size, devices) for rank in ranks_in(options.rank)]


def _write(run: Run, report: dict[str, Any], options: Namespace) -> None:
    from profiler.views.figures.ranks import rank_bars
    from profiler.views.figures.style import as_image, use_style
    from profiler.views.memory_viz import memory_viz
    from profiler.views.pages.run import run_page

    if options.save:
        run.save(options.save)
    picture = None
    if report["ranks"] and (options.ranks or options.report):
        use_style()
        picture = rank_bars(report["ranks"], report["gpu"], report["gpu_bytes"], run.name)
    if options.ranks:
        if picture is None:
            raise ProfilerError("--ranks: fewer than two ranks ran, so that there is nothing to draw")
        image = as_image(picture, options.ranks.suffix)
        write_atomically(options.ranks, lambda temporary: temporary.write_bytes(image))
    if options.report:
        data = run_page(run, ranks=as_image(picture, ".svg") if picture else b"").encode()
        write_atomically(options.report, lambda temporary: temporary.write_bytes(data))
    if options.snapshot:
        # memory_viz reads no later protocol.
        pickled = pickle.dumps(memory_viz(run), protocol=4)
        write_atomically(options.snapshot, lambda temporary: temporary.write_bytes(pickled))


def _report(watched: Watched, gpu: GPU, command: Sequence[str]) -> dict[str, Any]:
    from profiler.distributed.ranks import rank_memory

    nccl = _nccl_terms(watched, gpu)
    memories = [rank_memory(process) for process in watched.processes]
    return {
        "command": list(command),
        "engine": "virtual",
        "gpu": gpu.name,
        "gpu_bytes": gpu.memory_bytes,
        "exit_code": watched.exit_code,
        "processes": [
            _process(process, gpu, nccl, memory)
            for process, memory in zip(watched.processes, memories, strict=True)
        ],
        "other_processes": _others(watched),
        "ranks": _ranks([memory for memory in memories if memory is not None]),
        "not_modelled": watched.journal.not_modelled,
        "assumed": watched.journal.assumed,
        "without_effect_on_memory": watched.journal.harmless,
        "read_back": [{**asdict(read), "words": str(read)} for read in watched.reads.reads],
    }


def _nccl_terms(watched: Watched, gpu: GPU) -> tuple[DeviceTerm, ...]:
    """What NCCL takes of each rank's GPU, () where no communicator of several ranks was used."""
    from profiler.gpu.virtual.card_file import nccl_of

    used = sum(count for text, count in watched.journal.assumed.items() if text.startswith("NCCL takes"))
    ranks = len({process.rank for process in watched.processes if process.rank}) or 1
    return (nccl_of(gpu, -(-used // ranks)),) if used else ()


def _others(watched: Watched) -> list[dict[str, int]]:
    """Those that took device memory, and none of it by PyTorch's caching allocator."""
    told = {process.pid for process in watched.processes}
    return [
        {"pid": pid, "device": device, "peak_device_used_bytes": size}
        for (pid, device), size in watched.journal.peak_bytes.items()
        if pid not in told
    ]


def _verdict(process: ProgramProcess) -> str:
    if process.run.refusals:
        return "out of memory"
    return "ended early" if process.failed else FITS


def _process(
    process: ProgramProcess, gpu: GPU, nccl: tuple[DeviceTerm, ...], memory: RankMemory | None
) -> dict[str, Any]:
    run = process.run
    peak, reserved_bytes = run.peak(), run.needed_bytes
    more = [*(nccl if process.rank else ()), *_elsewhere(process)]
    used = in_total(device_used_terms(gpu, reserved_bytes, *more), "device used")
    return {
        "pid": process.pid,
        "rank": process.rank,
        "device": process.device,
        "command": list(process.command),
        "verdict": _verdict(process),
        "ended": process.ended,
        "note": process.run.note,
        "peak_allocated_bytes": peak.allocated_bytes,
        "peak_reserved_bytes": reserved_bytes,
        "device_used_bytes": used.typical_bytes,
        "device_used_low_bytes": used.low_bytes,
        "device_used_high_bytes": used.high_bytes,
        "elsewhere_bytes": process.elsewhere_bytes,
        "peak": {
            "phase": str(peak.phase),
            "reserved_bytes": peak.reserved_bytes,
            "fragmentation_bytes": peak.fragmentation_bytes,
            "holes": asdict(holes(segments_at(run.entries, run.segment_changes, peak.position))),
            "made_by": _made_by(peak.allocation),
            "categories": run.by_category() if memory is None else dict(memory.shares),
            "modules": {share.name: share.size_bytes for share in run.by_module()},
            "lines": run.by_line(),
        },
        "phases": [_phase(phase) for phase in run.phases],
        "out_of_memory": [_refused(run, each) for each in run.refusals],
    }


def _elsewhere(process: ProgramProcess) -> tuple[DeviceTerm, ...]:
    """What the program took past PyTorch's allocator, as paged optimizers do."""
    size_bytes = process.elsewhere_bytes
    sizes = (size_bytes, size_bytes, size_bytes)
    return (DeviceTerm("past PyTorch's allocator", *sizes, "cudaMalloc"),) if size_bytes else ()


def _ranks(memories: Sequence[RankMemory]) -> list[dict[str, Any]]:
    """Ranks that needed the same together, the fullest first; none where fewer than two ran."""
    from profiler.distributed.ranks import alike

    groups = alike(memories) if len(memories) > 1 else ()
    return [{"ranks": group.ranks, "words": str(group), **asdict(group.memory)} for group in groups]


def _made_by(allocation: Any) -> str:
    if allocation is None:
        return ""
    words = [format_bytes(allocation.requested_bytes), allocation.op, *(allocation.where or ())]
    return ", ".join(word for word in words if word)


def _refused(run: Run, request: Refusal) -> dict[str, Any]:
    return {
        "phase": str(next(e.phase for e in run.entries[request.position + 1 :] if isinstance(e, Mark))),
        "requested_bytes": request.requested_bytes,
        "allocated_bytes": request.allocated_bytes,
        "reserved_bytes": request.reserved_bytes,
        "op": request.op,
        "module": request.where.module if request.where else "",
        "line": request.where.line if request.where else "",
    }


def _phase(phase: PhaseMeasurement) -> dict[str, Any]:
    return {
        "phase": str(phase.account.phase),
        "step": phase.account.phase.step,
        "allocated_bytes": phase.allocated_bytes,
        "peak_allocated_bytes": phase.peak_allocated_bytes,
        "peak_reserved_bytes": phase.peak_reserved_bytes,
        "peak_categories": {name: size for name, size in phase.peak.items() if size},
    }
